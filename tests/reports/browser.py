"""A real Chromium without a window, for the pages that reports write."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1600",
)

#: window.pixels(canvas): from a copy, so that looking does not change how the browser keeps the canvas.
_PIXELS = """
window.pixels = (canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, canvas.width, canvas.height).data;
};
"""


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver with a profile of its own. Skips by name where a part is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    # Errors of the page, and every request that it makes.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver, log_output=os.devnull)
    chrome = webdriver.Chrome(options=options, service=service)
    try:
        yield Page(chrome)
    finally:
        chrome.quit()


class Page:
    """What the tests do with a page."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, path: Path, scheme: str = "light") -> None:
        """Loads the file, and waits until it has drawn itself."""
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.scheme(scheme)
        self.driver.get(path.as_uri())
        self.until("return document.documentElement.dataset.ready")
        self.run(_PIXELS)
        self.settle()

    def scheme(self, name: str) -> None:
        """Light or dark, as the reader prefers."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def until(self, script: str) -> None:
        """Waits until the script answers with something true, and for what that changed to be drawn."""
        waiting = importlib.import_module("selenium.webdriver.support.ui")
        waiting.WebDriverWait(self.driver, 20, 0.05).until(lambda _: self.run(script))
        self.settle()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def settle(self) -> None:
        """Two frames later everything that was asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event at a place in the window, through the browser's own input."""
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})
        self.settle()

    def plot(self) -> dict[str, float]:
        """Where the cells of the heat map are in the window."""
        found: dict[str, float] = self.run(
            "document.getElementById('heat-canvas').scrollIntoView({block: 'center'});"
            "const box = document.getElementById('heat-canvas').getBoundingClientRect(), p = window.pagescan.map.plot;"
            "return {left: box.left + p.left, top: box.top + p.top, width: p.width, height: p.height};"
        )
        self.settle()
        return found

    def keys(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        chains = importlib.import_module("selenium.webdriver.common.action_chains")
        chains.ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def errors(self) -> list[str]:
        """What the browser logged."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
