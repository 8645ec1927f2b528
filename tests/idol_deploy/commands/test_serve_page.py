"""The live page in Chromium in front of `idol-deploy serve`: real cameras, the bundled demo model, and what fails.

    IDOL_SCREENSHOTS=docs/images pytest -n 0 -m slow tests/idol_deploy/commands/test_serve_page.py

renews the pictures of the documents, with the fastest engine and the libraries of `IDOL_PLUGINS`. The machine must be
idle.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from samples.waiting import LIMIT_S, until
from servers.mjpeg import MjpegServer
from servers.rtsp import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.idol_deploy.conftest import Command, Start

BUNDLE = Path(__file__).parents[3] / "models/edge_synth/edge_synth.idol"
HOSTILE = "<img src=x onerror=document.title='run'>"
SCREENSHOTS = os.environ.get("IDOL_SCREENSHOTS")
PLUGINS = os.environ.get("IDOL_PLUGINS", "")  # hidden from tests
FPS = 12 if SCREENSHOTS else 4
FIRST_PAINT_MS = 1000

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def cameras(idol: Command, tmp_path: Path) -> Iterator[list[MjpegServer]]:
    """Two cameras whose objects move forwards and backwards, so that no identity ends by a jump."""
    folder = tmp_path / "synth"
    shape = ("--preset", "easy", "--size", "480x768", "--frames", 24, "--videos", 2, "--seed", 7)
    assert idol("synth", "--split", "val", *shape, "-o", folder).status == 0
    with contextlib.ExitStack() as stack:
        servers = []
        for video in sorted((folder / "JPEGImages").iterdir()):
            frames = [path.read_bytes() for path in sorted(video.iterdir())]
            servers.append(stack.enter_context(MjpegServer(fps=FPS, pictures=frames + frames[::-1])))
        yield servers


class Served:
    """A process of `idol-deploy serve` that is started again at the same port."""

    def __init__(self, start: Start, cameras: list[MjpegServer], names: list[str], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        streams = [
            {"name": name, "source": camera.url, "state": str(folder / f"{i}.state"), "after_gap": "keep"}
            for i, (name, camera) in enumerate(zip(names, cameras, strict=True))
        ]
        (folder / "streams.json").write_text(json.dumps({"streams": streams}))
        options = ("--streams", folder / "streams.json", "--http", str(self.port), "--score", "0.4")
        engine = () if SCREENSHOTS else ("--backend", "onnxruntime", "--graph", "portable", "--threads", "1")
        self._start: Callable[[], subprocess.Popen[str]] = lambda: start("serve", BUNDLE, *options, *engine)
        self.process = self._start()

    def restart(self, number: signal.Signals) -> None:
        """End the process by a signal, and start it again."""
        self.process.send_signal(number)
        self.process.communicate()
        self.process = self._start()

    @property
    def server_pid(self) -> int:
        """Process of the HTTP server."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [pid for task in tasks for pid in task.read_text().split()]
        for pid in children:
            if b"idol_runtime.serve.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        raise AssertionError(f"no server process among {children}")


@pytest.fixture
def served(
    start: Start,
    cameras: list[MjpegServer],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Served]:
    if SCREENSHOTS:
        monkeypatch.setenv("IDOL_PLUGINS", PLUGINS)
    served = Served(start, cameras, getattr(request, "param", ["door", HOSTILE]), tmp_path)
    try:
        yield served
    finally:
        served.process.send_signal(signal.SIGTERM)
        served.process.communicate(timeout=LIMIT_S)


def open_page(chromium: Browser, served: Served, problems: list[str], **options: Any) -> Page:
    """Open the page; a message in its console, an error and a refusal of its policy are problems."""
    from playwright.sync_api import Error

    page = chromium.new_context(**options).new_page()
    page.set_default_timeout(1e3 * LIMIT_S)
    # Chromium reports every request that fails because the server is down or ends.
    down = ("net::ERR_", "status of 503")
    page.on("console", lambda line: any(text in line.text for text in down) or problems.append(line.text))
    page.on("pageerror", lambda error: problems.append(str(error)))

    def opens() -> bool:
        try:
            page.goto(served.url)
        except Error:  # the server does not listen yet
            return False
        return True

    until(opens, served.process)
    return page


def wait(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true; Playwright's function needs `eval`, which the page forbids."""
    deadline = time.monotonic() + LIMIT_S
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"{condition}\n{page.inner_text('body')}"
        page.wait_for_timeout(50)


def watch(page: Page, condition: str) -> None:
    """Set `seen` once a JavaScript expression is true after a change of the page, even if only for a moment."""
    page.evaluate(
        f"""window.seen = false;
        new MutationObserver((_, observer) => {{ if (seen = {condition}) observer.disconnect() }}).observe(
            document, {{ subtree: true, childList: true, attributes: true, characterData: true }})"""
    )


def first_paint_ms(page: Page) -> float:
    wait(page, "performance.getEntriesByName('first-contentful-paint').length === 1")
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def state(number: int, expected: str) -> str:
    return f"document.querySelectorAll('.card')[{number}].dataset.state === '{expected}'"


BANNER = "/{}/.test(document.querySelector('#banner').textContent) && !document.querySelector('.card[data-state=live]')"
DISCONNECTED, ENDED = BANNER.format("^No connection"), BANNER.format("^The run has ended")
LIVE = "document.querySelectorAll('.card[data-state=live] .view:not(.stale)').length === 2"
FAST = (
    "[...document.querySelectorAll('.card:not([hidden]) .fps')].every((one) => Number(one.textContent) > 10)"
)
IN_VIEW = "/: in view/.test(document.querySelector('.card .following p').textContent)"


def test_cameras_servers_and_runs_come_and_go(
    chromium: Browser, served: Served, cameras: list[MjpegServer]
) -> None:
    problems: list[str] = []
    page = open_page(chromium, served, problems, viewport={"width": 1280, "height": 800})
    wait(page, LIVE)
    assert page.locator(".name").all_inner_texts() == ["door", HOSTILE]
    assert page.title() == "idol_deploy"
    page.evaluate("window.same = true")  # until the page is loaded again

    # A camera is lost and returns; the other one goes on.
    cameras[1].stop()
    wait(page, state(1, "lost"))
    assert "Camera lost" in page.locator(".notice:visible").inner_text()
    wait(page, "document.querySelectorAll('.card')[1].querySelector('.stale') !== null")
    wait(page, state(0, "live"))
    cameras[1].start()
    wait(page, LIVE)

    # A track is followed.
    wait(page, "document.querySelector('.track[data-state=visible]') !== null")
    track = page.locator(".track[data-state=visible]").first
    name = " ".join(track.locator(".class").inner_text().split())
    entered = f"""[...document.querySelectorAll('#events li[data-source=door]')]
        .filter((row) => row.textContent.includes({json.dumps(name.replace("#", "") + " enters")})).length"""
    track.click()
    wait(page, IN_VIEW)
    assert name in page.inner_text(".following p")

    # The server process dies: the page connects again by itself, to the same run.
    watch(page, DISCONNECTED)
    os.kill(served.server_pid, signal.SIGKILL)
    wait(page, "seen")
    wait(page, "document.querySelector('#connection').dataset.state === 'open'")
    wait(page, IN_VIEW)

    # The whole run dies: identities continue after it.
    watch(page, DISCONNECTED)
    served.restart(signal.SIGKILL)
    wait(page, "seen")
    wait(page, "document.querySelector('#connection').dataset.state === 'open'")
    wait(page, IN_VIEW)
    assert name in page.inner_text(".following p")
    wait(page, "/door *continues after frame/.test(document.querySelector('#events').textContent)")
    assert page.evaluate(entered) == 1

    # It is stopped, and the service is started again.
    watch(page, ENDED)
    served.restart(signal.SIGTERM)
    wait(page, "seen")
    wait(page, "document.querySelector('#connection').dataset.state === 'open'")
    wait(page, IN_VIEW)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    wait(page, LIVE)
    assert page.evaluate("window.same") is True
    assert page.title() == "idol_deploy"
    assert not problems
    page.context.close()

    paints = []
    for _ in range(5):
        page = open_page(chromium, served, problems)
        paints.append(first_paint_ms(page))
        page.context.close()
    assert min(paints) < FIRST_PAINT_MS, paints  # other processes delay most of them


@pytest.mark.skipif(not SCREENSHOTS, reason="IDOL_SCREENSHOTS is not set")
@pytest.mark.parametrize("served", [["door", "yard"]], indirect=True)
def test_pictures_of_the_documents(chromium: Browser, served: Served) -> None:
    folder = Path(str(SCREENSHOTS))
    size = {"width": 1280, "height": 800}
    page = open_page(chromium, served, [], viewport=size)
    wait(page, LIVE)
    page.wait_for_timeout(30000)  # the timelines fill
    _save(page, folder / "serve.webp")
    page.locator(".card").first.locator(".track[data-state=visible]").first.click()
    page.wait_for_timeout(3000)
    _save(page, folder / "serve_follow.webp")
    address = page.url
    page.context.close()
    size = {"width": 390, "height": 844}
    phone = open_page(
        chromium, served, [], viewport=size, color_scheme="dark", has_touch=True, is_mobile=True
    )
    phone.goto(address)
    phone.locator(".card:visible .zoom").tap()
    phone.wait_for_timeout(5000)
    _save(phone, folder / "serve_phone.webp")


def _save(page: Page, path: Path) -> None:
    wait(page, FAST)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=85, method=6)
