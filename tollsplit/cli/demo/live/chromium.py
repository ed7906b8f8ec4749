"""A subscriber's browser: Debian's Chromium without a window, spoken to over a pair of pipes.

Its DevTools protocol is JSON messages that end with a zero octet; see chrome-devtools-protocol.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .namespaces import End
from .program import PATIENCE_S, StoryError, wait
from .stage import HOSTS, Stage

# Chromium reads commands from descriptor 3 and answers on 4.
_ON_3_AND_4 = ("bash", "-c", 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"')
_ARGUMENTS = (
    "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--no-first-run",
    # It runs as root, where its sandbox does not.
    "--no-sandbox",
    "--disable-features=DisableLoadExtensionCommandLineSwitch",
)  # fmt: skip
_CLICK = ("mousePressed", "mouseReleased")


def is_there() -> bool:
    return shutil.which("chromium") is not None


class Chromium:
    """The browser at a host; it ends with the stage, or by `quit`."""

    def __init__(self, stage: Stage, end: End, extension: Path) -> None:
        names = [f"MAP {name} {host.ipv4}" for name, host in HOSTS.items()]
        known = [f"EXCLUDE {address}" for address in
                 ("127.0.0.1", *(host.ipv4 for host in HOSTS.values()))]  # fmt: skip
        rules = ", ".join([*names, "MAP * ~NOTFOUND", *known])
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        try:
            self._program = stage.begin(
                end, "chromium", *_ON_3_AND_4, str(theirs_in), str(theirs_out), "chromium",
                *_ARGUMENTS, f"--host-resolver-rules={rules}", f"--load-extension={extension}",
                f"--user-data-dir={stage.home / 'chromium'}", pass_fds=(theirs_in, theirs_out))
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._number = 0
        self._read = b""
        self._answers: dict[int, dict[str, Any]] = {}

    def call(self, method: str, session: str | None = None, **values: object) -> dict[str, Any]:
        """Send one command and have its answer. Raises StoryError."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if session is not None:
            asked["sessionId"] = session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        until_s = time.monotonic() + PATIENCE_S
        while self._number not in self._answers:
            self._take(until_s, method)
        answer = self._answers.pop(self._number)
        if "error" in answer:
            raise StoryError(f"chromium: {method}: {answer['error']['message']}")
        found: dict[str, Any] = answer["result"]
        return found

    def _take(self, until_s: float, method: str) -> None:
        """Read what has come; events are nobody's."""
        ready, _, _ = select.select([self._in], [], [], max(0.0, until_s - time.monotonic()))
        octets = os.read(self._in, 1 << 16) if ready else b""
        if not octets:
            raise StoryError(f"chromium: {method}: no answer: {self._program.said}")
        *messages, self._read = (self._read + octets).split(b"\0")
        for message in messages:
            found = json.loads(message)
            if "id" in found:
                self._answers[found["id"]] = found

    def page(self, url: str) -> Page:
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, target)

    def quit(self) -> None:
        self.call("Browser.close")
        try:
            self._program.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise StoryError("chromium did not stop") from None
        os.close(self._in)
        os.close(self._out)


class Page:
    """One page, in front of nobody."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **values: object) -> dict[str, Any]:
        return self._browser.call(method, self._session, **values)

    def run(self, expression: str) -> Any:
        """What an expression gives; a promise is waited for. Raises StoryError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                          returnByValue=True)  # fmt: skip
        if "exceptionDetails" in found:
            raise StoryError(f"the page: {found['exceptionDetails'].get('exception')}")
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """What an expression gives as soon as that is something."""
        return wait(lambda: self.run(expression), expression)

    def click(self, css: str) -> None:
        """As with a mouse, in the element's middle."""
        element = f"document.querySelector({json.dumps(css)})"
        self.wait(f"!!{element}")
        place: Mapping[str, float] = self.run(
            f"(() => {{const at = {element}.getBoundingClientRect(); "
            "return {x: at.x + at.width / 2, y: at.y + at.height / 2}})()")
        for kind in _CLICK:
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
