"""The page in a real browser: readable for everybody, at any width, by keyboard; and nothing foreign runs in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from clients.devtools import Tab, tab

from harness.story.page import page, with_script

from .samples import hostile, one_of_each

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(300)]

SIZES = {"desk": (1280, 900), "phone": (390, 844)}
UNFOLD = "document.querySelectorAll('details').forEach(each => each.open = true)"
FOCUSABLE = "a[href], button:not([hidden]), summary, [tabindex='0']"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "story.html"
    path.write_text(page(one_of_each()), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(browser: Tab, everything: Path, size: str, dark: bool):
    browser.show(everything, *SIZES[size], dark=dark)
    browser.run(UNFOLD)

    browser.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8") + ";0")
    found = browser.run("axe.run(document, {resultTypes: ['violations']})")

    assert len(found["passes"]) > 20, "it has looked at the page"
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(each["id"], each["nodes"][0]["html"]) for each in serious], indent=1)


def test_nothing_foreign_runs_and_nothing_is_fetched(browser: Tab, tmp_path: Path):
    path = tmp_path / "hostile.html"
    path.write_text(page([hostile()]), encoding="utf-8")

    browser.show(path)
    browser.run(UNFOLD)
    browser.run("document.querySelectorAll('a, summary, button, .step').forEach(each => each.dispatchEvent("
                "new MouseEvent('mouseover', {bubbles: true})))")  # fmt: skip

    assert browser.run("typeof hit") == "undefined"
    assert browser.run("document.title") == "bell: 0 of 1 behaviours hold"
    told = {event["method"]: event for event in browser.events}
    assert "Runtime.exceptionThrown" not in told
    assert "Log.entryAdded" not in told, "no breach of the page's policy, and no error"
    requests = [event["params"]["request"]["url"] for event in browser.events if event["method"].endswith("BeSent")]
    assert set(requests) <= {path.resolve().as_uri()}


def test_one_more_script_runs_and_no_other_does(browser: Tab, tmp_path: Path):
    text = with_script(page(one_of_each()), "window.added = 1")
    injected = text.replace("</main>", "<script>window.injected = 1</script></main>")
    (tmp_path / "page.html").write_text(injected, encoding="utf-8")

    browser.show(tmp_path / "page.html")

    assert browser.run("[window.added, window.injected]") == [1, None]


@pytest.mark.parametrize("size", SIZES)
def test_no_page_is_wider_than_its_window(browser: Tab, everything: Path, size: str):
    browser.show(everything, *SIZES[size])
    browser.run(UNFOLD)

    assert browser.run("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert browser.run("document.querySelector('.canvas .diagram').getBoundingClientRect().width") >= 480


def test_dark_and_light_are_the_readers_choice(browser: Tab, everything: Path):
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.diagram .label')).fill"

    colours = []
    for dark in (False, True):
        browser.show(everything, dark=dark)
        colours.append((browser.run(ground), browser.run(ink)))

    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_everything_can_be_reached_and_opened_by_keyboard(browser: Tab, everything: Path):
    browser.show(everything)
    browser.run(UNFOLD)
    wanted = browser.run(f"""
        window.reached = new Set();
        document.addEventListener("focusin", (event) => reached.add(event.target));
        [...document.querySelectorAll("{FOCUSABLE}")].filter((each) => each.offsetParent || each.closest("svg")).length
    """)

    for _ in range(wanted + 5):
        browser.press("Tab", 9)

    missed = browser.run(f"""
        [...document.querySelectorAll("{FOCUSABLE}")].filter((each) => each.offsetParent && !reached.has(each))
        .map((each) => each.outerHTML.slice(0, 120))
    """)
    assert wanted > 20
    assert missed == []


def test_a_hint_opens_by_keyboard(browser: Tab, everything: Path):
    browser.show(everything)
    browser.run("document.querySelector('.hint summary').focus()")

    browser.press("Enter", 13)

    assert browser.run("document.querySelector('.hint').open") is True


def test_a_pointer_on_an_arrow_shows_its_bytes_and_a_click_leads_to_them(browser: Tab, everything: Path):
    browser.show(everything)
    x, y = place_of(browser, ".step.message")

    browser.move_to(x, y)

    shown = browser.run("document.querySelector('.popup').textContent")
    assert "#1 POST /rings ding" in shown
    assert "50 4f 53 54 20 2f 72 69" in shown

    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert browser.run("document.activeElement.closest('li').textContent").split()[1] == "ms"
    assert browser.run("document.activeElement.parentElement.open") is True


def place_of(browser: Tab, selector: str) -> Any:
    """The middle of the first such element, scrolled into sight."""
    return browser.run(f"""new Promise((done) => {{
        const found = document.querySelector("{selector}");
        found.scrollIntoView({{ behavior: "instant", block: "center" }});
        requestAnimationFrame(() => requestAnimationFrame(() => {{
            const box = found.querySelector(".hit").getBoundingClientRect();
            done([box.x + box.width / 2, box.y + box.height / 2]);
        }}));
    }})""")


def test_what_does_not_hold_can_be_shown_alone(browser: Tab, everything: Path):
    shown = "[...document.querySelectorAll('.entry')].filter(each => each.offsetParent).length"
    browser.show(everything)
    before = browser.run(shown)

    browser.run("document.querySelector('[data-show=open]').click()")

    assert (before, browser.run(shown)) == (9, 5)
    assert browser.run("document.querySelector('[data-show=open]').getAttribute('aria-pressed')") == "true"


def test_a_command_can_be_copied(browser: Tab, everything: Path):
    browser.show(everything)
    browser.run("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")

    browser.run("document.querySelector('.copy').click()")

    assert browser.run("copied") == "pytest katas/bell -k answers_again --seed=7"


def test_on_paper_stories_are_open_and_hints_are_not(browser: Tab, everything: Path):
    browser.show(everything)
    browser.run("document.querySelectorAll('.diagram-of').forEach(each => each.open = false)")

    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("[...document.querySelectorAll('.diagram-of')].every(each => each.open)") is True
    assert browser.run("[...document.querySelectorAll('.hint')].some(each => each.open)") is False

    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("[...document.querySelectorAll('.diagram-of')].some(each => each.open)") is False
    assert len(browser.call("Page.printToPDF")["data"]) > 10_000


def test_a_picture_can_be_taken_of_every_look(browser: Tab, everything: Path, tmp_path: Path):
    """The only way to judge a look is to look; the pictures are left in the folder of the test."""
    sizes = set()
    for name, (width, height) in SIZES.items():
        for dark in (False, True):
            browser.show(everything, width, height, dark)
            path = tmp_path / f"{name}-{'dark' if dark else 'light'}.png"
            browser.picture(path, whole=True)
            sizes.add(path.stat().st_size)
    assert len(sizes) == 4, "no two of them are alike"
    assert min(sizes) > 20_000
