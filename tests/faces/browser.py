"""A real browser, driven over the WebDriver protocol with the standard library: Debian's chromium and chromedriver.

`Browser.find` says whether they are there. Each browser has a profile of its own and is ended with everything it started.
"""

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PATIENCE = 20.0
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-dev-shm-usage --hide-scrollbars --force-color-profile=srgb"
)


class Browser:
    """One browser with one window; `with` starts and ends it."""

    def __init__(self, width=1280, height=900):
        self._size = (width, height)
        self._folder = tempfile.TemporaryDirectory(prefix="fireforget-browser-", ignore_cleanup_errors=True)

    @staticmethod
    def find():
        """Return the paths of the browser and its driver; None unless both are there."""
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        driver = shutil.which("chromedriver")
        return (browser, driver) if browser and driver else None

    def __enter__(self):
        browser, driver = self.find()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._driver = subprocess.Popen(
            [driver, f"--port={self._port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._folder.name},
        )
        try:
            self._wait_for_driver()
            options = {"binary": browser, "args": [*_FLAGS.split(), f"--user-data-dir={self._folder.name}/profile"]}
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
            self._session = f"/session/{made['sessionId']}"
            self.resize(*self._size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self._ask("DELETE", self._session, None)
        self._driver.terminate()
        self._driver.wait()
        self._folder.cleanup()

    def _wait_for_driver(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self._ask("GET", "/status", None)["ready"]:
                    return
            except OSError:
                if time.monotonic() > end or self._driver.poll() is not None:
                    raise
            select_nothing(0.02)

    def _ask(self, method, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{path.rpartition('/')[2]}: {value['error']}: {value['message'].splitlines()[0]}")
        return value

    def resize(self, width, height):
        """Give the window another size."""
        self._ask("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def open(self, url):
        """Load a page anew, also where only what follows its # is another."""
        self._ask("POST", f"{self._session}/url", {"url": "about:blank"})
        self._ask("POST", f"{self._session}/url", {"url": url})

    def go(self, page):
        """Go to another view of the page that is open, and wait until it is shown."""
        self.run("location.hash = arguments[0]", page)
        self.wait(lambda: self.run("return document.getElementById('main').dataset.shown") == page, page)

    def run(self, script, *arguments):
        """Return what a script returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def texts(self, selector):
        """Return the texts of all elements that a CSS selector finds, as they are shown."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText.trim())", selector)

    def text(self, selector="main"):
        """Return the text of an element; empty where there is none."""
        return "\n".join(self.texts(selector)[:1])

    def wait(self, condition, what):
        """Wait until a condition holds, and return its value; the page tells when it is ready, so it is asked."""
        end = time.monotonic() + PATIENCE
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < end, f"{what}: never; the page says {self.text('body')[:2000]!r}"
            select_nothing(0.03)

    def wait_for_text(self, text, selector="main"):
        """Wait until an element shows a text."""
        return self.wait(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def element(self, selector):
        """Return the element that a CSS selector finds, once it is there."""
        using = {"using": "css selector", "value": selector}
        return self.wait(lambda: self._ask("POST", f"{self._session}/elements", using), selector)[0][_ELEMENT]

    def click(self, selector):
        """Click as a person does: what is covered or not shown cannot be clicked."""
        element = self.element(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", {_ELEMENT: element})
        self._ask("POST", f"{self._session}/element/{element}/click", {})

    def click_text(self, selector, text):
        """Click the first element of a selector with exactly this text."""
        script = (
            "for (const e of document.querySelectorAll(arguments[0])) if (e.innerText.trim() === arguments[1]) "
            "{ e.setAttribute('data-found', arguments[2]); return true } return false"
        )
        mark = base64.b32encode(os.urandom(10)).decode()
        self.wait(lambda: self.run(script, selector, text, mark), f"{selector} with {text!r}")
        self.click(f"[data-found='{mark}']")

    def type(self, selector, text, *, clear=False):
        """Type into an element."""
        element = self.element(selector)
        if clear:
            self._ask("POST", f"{self._session}/element/{element}/clear", {})
        self._ask("POST", f"{self._session}/element/{element}/value", {"text": text})

    def press(self, *keys):
        """Press keys, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        self._ask("POST", f"{self._session}/actions", body)

    def screenshot(self, path):
        """Save what the window shows."""
        Path(path).write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot", None)))


def select_nothing(seconds):
    """Let the browser have the processor for a moment; it has no event to wait for."""
    import select

    select.select([], [], [], seconds)
