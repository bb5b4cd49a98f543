"""`python -m harness.commands`, where the command `kata` is not on the path."""

import sys

from harness.commands import main

sys.exit(main())
