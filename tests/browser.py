"""Debian's Chromium without a window: phones with touch screens, sensors and a camera.

One browser serves a whole run of tests. Each screen in it is a profile of its own, so two screens
are two terminals that share nothing. It reaches the loopback interface and nothing else.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

WAIT_S = 10.0
WIDTH, HEIGHT = 390, 844  # of a phone, in CSS pixels
GRAVITY = 9.8  # m/s²
SENSORS = ("accelerometer", "linear-acceleration", "gyroscope")
# Pages that nobody looks at run as fast as the others; the camera is a file and needs no consent.
ARGUMENTS = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding", "--disable-background-networking", "--no-first-run",
    "--touch-events=enabled", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)  # fmt: skip


class Screen:
    """One terminal's page. Every call brings it to the front first."""

    def __init__(self, driver: Chrome, handle: str) -> None:
        self._driver, self._handle = driver, handle
        self.command("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT,
                     deviceScaleFactor=2, mobile=True)  # fmt: skip
        self.command("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)
        for sensor in SENSORS:  # a page that came first would hear that there are none
            self.command("Emulation.setSensorOverrideEnabled", type=sensor, enabled=True)

    @property
    def driver(self) -> Chrome:
        self._driver.switch_to.window(self._handle)
        return self._driver

    def command(self, name: str, **values: object) -> dict[str, Any]:
        """Send one command of the DevTools protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(name, values)
        return answer

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str, *values: object) -> Any:
        """What a script returns; a promise is waited for."""
        return self.driver.execute_script(script, *values)

    def find(self, css: str) -> WebElement:
        """The first element of that kind, waited for until it shows."""
        def shown() -> WebElement | None:
            found = self.driver.find_elements("css selector", css)
            return next((one for one in found if one.is_displayed()), None)

        return self.wait(shown, css)

    def text(self, css: str) -> str:
        return self.find(css).text

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """What the condition gives as soon as that is something; fails after ten seconds."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, WAIT_S, 0.02, [StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            pytest.fail(f"{what}: not within {WAIT_S:.0f} s; the page says: "
                        f"{self.run('return document.body.innerText')!r}, "
                        f"its console: {self.console()}")  # fmt: skip

    def wait_text(self, css: str, part: str) -> str:
        """An element's text, once it has that part."""
        def found() -> str | None:
            text = self.find(css).text
            return text if part in text else None

        return str(self.wait(found, f"{part!r} in {css}"))

    # --- a person's hands ---------------------------------------------------------------

    def tap(self, css: str) -> None:
        self._touch(css, [(0, 0)])

    def swipe(self, css: str, right: int = 0, down: int = 0) -> None:
        """Put a finger on an element and draw it so many pixels to the right and down."""
        self._touch(css, [(0, 0), (right // 2, down // 2), (right, down)])

    def _touch(self, css: str, steps: Sequence[tuple[int, int]]) -> None:
        from selenium.webdriver.common.actions import interaction
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        element = self.find(css)
        finger = PointerInput(interaction.POINTER_TOUCH, "finger")
        actions = ActionBuilder(self.driver, mouse=finger, duration=60)
        for number, (right, down) in enumerate(steps):
            actions.pointer_action.move_to(element, right, down)
            if not number:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
        actions.perform()

    def move(self, *accelerations: float) -> None:
        """Have the phone measure these accelerations upwards, in m/s², 50 ms each."""
        for upwards in accelerations:
            self._measure("accelerometer", GRAVITY + upwards)
            self._measure("linear-acceleration", upwards)
            self._measure("gyroscope", 0)
            self.run("return new Promise(done => setTimeout(done, 50))")

    def _measure(self, sensor: str, upwards: float) -> None:
        self.command("Emulation.setSensorOverrideReadings", type=sensor,
                     reading={"xyz": {"x": 0, "y": 0, "z": upwards}})  # fmt: skip

    def press(self, *keys: str) -> None:
        """Type on the keyboard, into whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    # --- what is seen -------------------------------------------------------------------

    def picture(self, name: str) -> bytes:
        """The page as a PNG; it is kept where TOLLSPLIT_PICTURES names a folder."""
        octets: bytes = self.driver.get_screenshot_as_png()
        folder = os.environ.get("TOLLSPLIT_PICTURES")
        if folder:
            (Path(folder) / f"{name}.png").write_bytes(octets)
        return octets

    def frame(self) -> bytes:
        """What another phone's camera sees of this page: a JPEG."""
        # Each side is a multiple of 16: such a frame is its own buffer when it is decoded.
        clip = {"x": 0, "y": 0, "width": 384, "height": 832, "scale": 0.5}
        shot = self.command("Page.captureScreenshot", format="jpeg", quality=95, clip=clip)
        return base64.b64decode(shot["data"])

    def console(self) -> list[str]:
        """Errors and warnings since the last time, of all pages: of scripts, of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def prefer(self, **features: str) -> None:
        """Set media features of the person's taste: prefers_color_scheme="dark"."""
        named = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        self.command("Emulation.setEmulatedMedia", features=named)

    def close(self) -> None:
        self.driver.close()


class Chromium:
    """A browser. What `hosts` names leads to the address it says, beside the loopback's own."""

    def __init__(
        self, folder: Path, *, extension: Path | None = None,
        hosts: Mapping[str, str] | None = None, arguments: Sequence[str] = (),
    ) -> None:  # fmt: skip
        webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: install it")
        self._film = folder / "camera.mjpeg"
        options = webdriver.ChromeOptions()
        options.binary_location = _program("chromium", "chromium")
        options.enable_bidi = True
        options.set_capability("goog:loggingPrefs", {"browser": "WARNING"})
        mapped = [f"MAP {name} {address}" for name, address in (hosts or {}).items()]
        known = ["127.0.0.1", "[::1]", "localhost", *(hosts or {}).values()]
        rules = [*mapped, "MAP * ~NOTFOUND", *(f"EXCLUDE {name}" for name in known)]
        asked = [f"--host-resolver-rules={', '.join(rules)}",
                 f"--use-file-for-fake-video-capture={self._film}"]  # fmt: skip
        if not os.geteuid():
            asked.append("--no-sandbox")  # Chromium runs no sandbox as root
        if extension is not None:
            asked += [f"--load-extension={extension}",
                      "--disable-features=DisableLoadExtensionCommandLineSwitch"]  # fmt: skip
        for argument in (*ARGUMENTS, *asked, *arguments):
            options.add_argument(argument)
        driver = _program("chromedriver", "chromium-driver")
        self._driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
        self._desk = Screen(self._driver, self._driver.current_window_handle)

    @property
    def desk(self) -> Screen:
        """The first screen, and the only one in which an extension runs."""
        return self._desk

    def screen(self) -> Screen:
        """Another terminal, that shares nothing with the others."""
        profile = self._driver.browser.create_user_context()
        return Screen(
            self._driver,
            self._driver.browsing_context.create(type="window", user_context=profile),
        )

    def film(self, *frames: bytes) -> None:
        """What the camera sees, over and over, the next time that it is opened: JPEGs."""
        self._film.write_bytes(b"".join(frames))

    def quit(self) -> None:
        self._driver.quit()


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: install Debian's package {package}")
    return found


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The one browser of this run; a test that needs an extension starts its own."""
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


@pytest.fixture
def screens(chromium: Chromium) -> Iterator[Callable[[], Screen]]:
    """Makes terminals; they are gone after the test."""
    made: list[Screen] = []

    def another() -> Screen:
        made.append(chromium.screen())
        return made[-1]

    yield another
    for screen in made:
        screen.close()
