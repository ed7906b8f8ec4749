"""The browser that tests of pages use does what a phone in a hand does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Chromium, Screen

PAGE = b"""<!doctype html><meta charset="utf-8"><title>probe</title>
<meta name="viewport" content="width=device-width">
<style>#pad {height: 200px; touch-action: none}</style>
<div id="pad">pad</div><video id="camera" autoplay muted playsinline></video><script>
const heard = [];
for (const name of ["pointerdown", "pointermove", "pointerup", "click"])
    addEventListener(name, event => heard.push(`${name} ${event.pointerType} ${event.isTrusted}`));
addEventListener("devicemotion", event => heard.push(`motion ${event.acceleration?.z}`));
</script>"""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def probe() -> Iterator[str]:
    """The address of a page that notes what it hears."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def heard(screen: Screen) -> list[str]:
    return screen.run("return heard.splice(0)")


def test_browser_touches_and_sensors_are_a_phones(
    screens: Callable[[], Screen], probe: str
) -> None:
    phone = screens()
    phone.open(probe)
    phone.tap("#pad")
    phone.wait(lambda: phone.run("return heard.includes('click touch true')"), "a click")
    heard(phone)
    phone.swipe("#pad", right=-120)
    events = heard(phone)
    assert events[0] == "pointerdown touch true" and events[-1] == "pointerup touch true"
    assert "pointermove touch true" in events
    phone.move(0, 5)
    phone.wait(lambda: "motion 5" in heard(phone), "a motion")


def test_browser_screens_share_nothing(screens: Callable[[], Screen], probe: str) -> None:
    ours, theirs = screens(), screens()
    for screen in (ours, theirs):
        screen.open(probe)
    ours.run("localStorage.secret = 'ours'")
    assert theirs.run("return localStorage.secret") is None
    assert ours.run("return localStorage.secret") == "ours"


def test_browser_reaches_loopback_alone(screens: Callable[[], Screen], probe: str) -> None:
    phone = screens()
    phone.open(probe)
    reach = "return fetch(arguments[0], {mode: 'no-cors'}).then(() => 'there', () => 'nowhere')"
    assert phone.run(reach, probe) == "there"
    for elsewhere in ("http://192.0.2.1/", "http://example.com/"):
        assert phone.run(reach, elsewhere) == "nowhere"


def test_browser_camera_sees_another_screen(
    chromium: Chromium, screens: Callable[[], Screen], probe: str
) -> None:
    shown, seeing = screens(), screens()
    for screen in (shown, seeing):
        screen.open(probe)
    shown.run("document.body.style.background = 'rgb(250, 0, 0)'")
    chromium.film(shown.frame())
    red, green, _ = seeing.run("""
        const video = document.querySelector("video");
        return navigator.mediaDevices.getUserMedia({video: true}).then(async stream => {
            video.srcObject = stream;
            await video.play();
            const canvas = document.createElement("canvas").getContext("2d");
            canvas.drawImage(video, 0, 0);
            return [...canvas.getImageData(100, 100, 1, 1).data.slice(0, 3)];
        });""")
    assert red > 200 and green < 60


def test_browser_runs_an_extension(tmp_path: Path, probe: str) -> None:
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "manifest.json").write_text(json.dumps({
        "manifest_version": 3, "name": "probe", "version": "1",
        "content_scripts": [{"matches": ["http://127.0.0.1/*"], "js": ["content.js"]}],
    }))  # fmt: skip
    (extension / "content.js").write_text("document.body.dataset.seen = 'yes';")
    browser = Chromium(tmp_path, extension=extension, hosts={"shop.example": "127.0.0.1"})
    try:
        browser.desk.open(probe)
        assert browser.desk.run("return document.body.dataset.seen") == "yes"
        browser.desk.open(probe.replace("127.0.0.1", "shop.example"))
        assert browser.desk.run("return document.title") == "probe"
    finally:
        browser.quit()
