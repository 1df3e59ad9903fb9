"""A headless Chromium that tests open pages in, driven by DevTools messages over two pipes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "chromium"

_PATIENCE = 60.0  # seconds for an answer
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
    "--remote-debugging-pipe",
)


def program() -> str | None:
    """The path of an installed Chromium."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


class Page:
    """An open page.

    problems : what it wrote to the console, exceptions of scripts, and what the policy refused
    """

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session
        self.problems: list[str] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a DevTools method."""
        return self.browser.send(method, self, **parameters)

    def value(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key: "Tab", "Enter", or a character."""
        codes = {"Tab": 9, "Enter": 13}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        base = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **base)
        self.send("Input.dispatchKeyEvent", type="keyUp", **base)


class Chromium:
    """A running browser."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self.process, self.write, self.read = process, write, read
        self.numbers, self.rest = itertools.count(1), b""
        self.pages: dict[str, Page] = {}
        self.events: list[tuple[str, str]] = []

    def send(self, method: str, page: Page | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a DevTools method, of the browser or of a page."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if page is not None:
            message["sessionId"] = page.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(self, path: Path, width: int, *, dark: bool = False, media: str = "") -> Page:
        """Open a file in a window of this width, and wait until it is loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for part in ("Page", "Runtime", "Log"):
            page.send(f"{part}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        page.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        page.send("Page.navigate", url=path.resolve().as_uri())
        while (session, "Page.loadEventFired") not in self.events:
            self._receive()
        return page

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select.select([self.read], [], [], _PATIENCE)[0], "the browser does not answer"
            part = os.read(self.read, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        method, page = answer.get("method"), self.pages.get(answer.get("sessionId", ""))
        if method is not None and page is not None:
            self.events.append((page.session, method))
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                page.problems.append(json.dumps(answer["params"]))
        return answer


@contextlib.contextmanager
def running() -> Iterator[Chromium]:
    """A browser with a profile of its own, closed at the end."""
    found = program()
    assert found is not None
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        # The browser reads from descriptor 3 and writes to 4.
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        command = ["bash", "-c", script, found, *_OPTIONS, f"--user-data-dir={home}"]
        process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            browser = Chromium(process, write, read)
            yield browser
            browser.send("Browser.close")
        finally:
            os.close(write)
            os.close(read)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
