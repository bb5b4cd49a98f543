"""A headless Chromium that is told what to do by the DevTools protocol, over a pair of pipes.

Messages are JSON, each ended by a NUL byte. Source: chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .browser import FLAGS, end, require_chromium

CHILD_READS, CHILD_WRITES = 3, 4  # the descriptors on which Chromium expects the pipes


class Tab:
    """One page of the browser."""

    def __init__(self, to: BinaryIO, back: BinaryIO) -> None:
        self._to, self._back, self._numbers = to, back, itertools.count(1)
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its result; what the browser tells meanwhile is kept in `events`."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._back.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        return json.loads(data)

    def until(self, method: str) -> dict[str, Any]:
        """Wait until the browser has told this."""
        while True:
            for event in self.events:
                if event["method"] == method:
                    self.events.remove(event)
                    return event["params"]
            self.events.append(self._read())

    def show(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of that size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        # The page's own policy forbids foreign scripts; the debugger is none.
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str, code: int, shift: bool = False) -> None:
        text = {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text, modifiers=8 if shift else 0,
            )  # fmt: skip

    def move_to(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))["data"]
        path.write_bytes(base64.b64decode(data))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}}


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A headless browser with one empty page; it ends with the block."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def place() -> None:
        """Both pipes where the browser looks for them; by way of high numbers, lest one overwrites the other."""
        reads, writes = os.dup2(theirs_in, 100), os.dup2(theirs_out, 101)
        os.dup2(reads, CHILD_READS)
        os.dup2(writes, CHILD_WRITES)

    words = [require_chromium(), *FLAGS, "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    quiet = subprocess.DEVNULL
    browser = subprocess.Popen(
        words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, close_fds=False, preexec_fn=place
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with os.fdopen(ours_out, "wb") as to, os.fdopen(ours_in, "rb") as back:
            yield Tab(to, back)
    finally:
        end(browser, profile)
