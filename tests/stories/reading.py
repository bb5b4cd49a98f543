"""A page as parsers read it that nobody here wrote, and that forgive nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from xml.etree.ElementTree import Element

import html5lib

HTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"


def parsed(page: str) -> Element:
    """The document. Raises html5lib.html5parser.ParseError at the first error."""
    tree: Element = html5lib.HTMLParser(strict=True).parse(page)
    return tree


def diagrams(page: str) -> list[Element]:
    """The diagrams of a page, read as XML."""
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg xmlns=.*?</svg>", page, re.S)]


def classes(tree: Element, name: str) -> list[Element]:
    """The elements that have this class."""
    return [each for each in tree.iter() if name in str(each.get("class", "")).split()]


def words(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())
