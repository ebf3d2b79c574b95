"""A headless Chromium driven over its DevTools protocol through two pipes: no port, no driver, no package.

The protocol's pipe transport is JSON messages that end in a NUL byte, on the file handles 3 (to the browser) and 4 (from it):
https://chromium.googlesource.com/chromium/src/+/main/content/browser/devtools/devtools_pipe_handler.cc
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE_S = 60
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def installed() -> str | None:
    """Where a Chromium lies, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of one browser. `complaints` are console errors, exceptions and refused or failed loads so far."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to = os.fdopen(to_browser, "wb", buffering=0)
        self._from = os.fdopen(from_browser, "rb", buffering=0)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result; what the browser tells meanwhile is noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._from.read(1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        self._note(told)
        return told

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(json.dumps(params["entry"]))
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("file:", "data:")):
                self.complaints.append(f"asks for {params['request']['url']}")
            case "Page.loadEventFired":
                self._loaded = True

    def open(self, page: Path, *, width: int, dark: bool = False, media: str = "screen") -> None:
        """Load a page at this width, in CSS pixels; `media` is screen or print."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._loaded = False
        self.ask("Page.navigate", url=page.absolute().as_uri())
        while not self._loaded:
            self._next()

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        taken = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])


@contextmanager
def browsing(chromium: str, profile: Path, options: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser while the block runs."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()

    def to_three_and_four() -> None:
        # Both are moved away first: one of them may be the other's place.
        ours = [os.dup2(handle, place) for handle, place in ((in_read, 13), (out_write, 14))]
        for handle, place in zip(ours, (3, 4), strict=True):
            os.dup2(handle, place)

    command = [chromium, *_OPTIONS, f"--user-data-dir={profile}", *options]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=to_three_and_four,  # noqa: PLW1509  (subprocess has no other way to name handles)
        close_fds=False,
        start_new_session=True,
    )
    os.close(in_read)
    os.close(out_write)
    browser = None
    try:
        browser = Browser(in_write, out_read)
        yield browser
        browser._session = None
        browser.ask("Browser.close")
        process.wait(_PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait(_PATIENCE_S)
        if browser is not None:
            browser._to.close()
            browser._from.close()
