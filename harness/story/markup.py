"""The templates, and the one way from a value into markup: made visible, then escaped, whatever it is.

What a solution sent or printed may hold markup, scripts and control characters. Nothing of it reaches the output of a
template but through here.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.story.plain import escaped
from harness.story.svg import Drawing

TEMPLATES = Path(__file__).parent / "templates"


@lru_cache
def templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = pixels
    return environment


def _harmless(value: Any) -> Any:
    """No control, format or bidirectional character of a text gets through; markup of our own passes."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return escaped(value)


def pixels(value: float) -> str:
    """A length with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


def own(file: str) -> Markup:
    """A style sheet or a script of ours, as it is."""
    return Markup((TEMPLATES / file).read_text(encoding="utf-8"))


def picture(drawing: Drawing, name: str) -> str:
    """The diagram as an SVG file of its own, which knows light and dark."""
    diagram: Any = templates().get_template("diagram.svg").module
    return str(diagram.diagram(drawing, "story", name, own("diagram.css"))) + "\n"
