"""A real browser without a window, spoken to over a pipe: opens a page, runs a line of JavaScript in it, and hears what went wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-breakpad", "--no-zygote",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--remote-debugging-pipe")


class Tab:
    """One page. `requests` are the URLs it asked for, `complaints` what the browser said against it."""

    def __init__(self, out: int, into: int) -> None:
        self._out, self._into, self._number, self._rest, self._session = out, into, 0, b"", ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        told = {"id": self._number, "method": method, "params": params, **({"sessionId": self._session} if self._session else {})}
        os.write(self._into, json.dumps(told).encode() + b"\0")
        while (said := self._next()).get("id") != self._number:
            self._hear(said)
        assert "error" not in said, said
        return dict(said["result"])

    def open(self, path: Path) -> None:
        self.loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self.loaded:
            self._hear(self._next())

    def run(self, code: str) -> Any:
        told = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def _hear(self, said: dict[str, Any]) -> None:
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(json.dumps(said["params"]))
            case "Page.loadEventFired":
                self.loaded = True

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            got = os.read(self._out, 1 << 20)
            assert got, "the browser has gone"
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


@contextmanager
def browsing() -> Iterator[Tab]:
    """A fresh browser with one page. Nothing of it remains afterwards."""
    assert CHROMIUM is not None
    theirs, into = os.pipe()
    out, their_out = os.pipe()
    for fd in (theirs, their_out):
        os.set_inheritable(fd, True)
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as home:
        command = f'exec "$0" "$@" 3<&{theirs} 4>&{their_out}'
        browser = subprocess.Popen(["bash", "-c", command, CHROMIUM, *FLAGS, f"--user-data-dir={home}"], pass_fds=(theirs, their_out),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                                   env={**os.environ, "HOME": home})
        try:
            os.close(theirs)
            os.close(their_out)
            tab = Tab(out, into)
            yield tab
        finally:
            os.close(into)
            os.close(out)
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
