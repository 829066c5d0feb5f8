"""A real Chromium without a screen, driven over the WebDriver protocol by plain HTTP."""

import contextlib
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from tests.support.model_server import bind

PATIENCE = 20.0

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to one
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing() -> str | None:
    """What keeps a browser from being driven here; None if nothing does."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


class Browser:
    """One session. Elements are named by CSS selectors."""

    def __init__(self, port: int, profile: Path) -> None:
        self._port = port
        self._profile = profile
        self._session = ""

    def begin(self) -> None:
        options = {"args": [*_ARGUMENTS, f"--user-data-dir={self._profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def end(self) -> None:
        self._call("DELETE", self._session)

    def open(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What the body of a function returns in the page."""
        asked: dict[str, object] = {"script": script, "args": []}
        return self._call("POST", f"{self._session}/execute/sync", asked)

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.run("return document.body.innerText"))

    def click(self, selector: str) -> None:
        self._call("POST", f"{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"{self._element(selector)}/value", {"text": text})

    def complaints(self) -> list[str]:
        """What the browser has written to its console since it was last asked."""
        asked = {"type": "browser"}
        return [entry["message"] for entry in self._call("POST", f"{self._session}/se/log", asked)]

    def until(self, holds: Callable[[str], bool]) -> str:
        """The page's text once something holds of it."""
        deadline = time.monotonic() + PATIENCE
        while not holds(text := self.text()):
            if time.monotonic() > deadline:
                raise AssertionError(f"the page still says:\n{text}")
            time.sleep(0.1)
        return text

    def _element(self, selector: str) -> str:
        asked = {"using": "css selector", "value": selector}
        found = self._call("POST", f"{self._session}/element", asked)
        return f"{self._session}/element/{found[_ELEMENT]}"

    def _call(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())["value"]
        finally:
            connection.close()
        assert response.status == 200, answer
        return answer


@contextlib.contextmanager
def browser(directory: Path) -> Generator[Browser]:
    """A browser with a fresh profile below ``directory``."""
    with bind() as reserved:
        port: int = reserved.getsockname()[1]
    command = ["chromedriver", f"--port={port}", f"--log-path={directory / 'driver.log'}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:  # noqa: S603 - a fixed program
        try:
            opened = Browser(port, directory / "profile")
            _begin(opened)
            try:
                yield opened
            finally:
                opened.end()
        finally:
            driver.terminate()


def _begin(opened: Browser) -> None:
    """The driver takes a moment to listen."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return opened.begin()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
