"""The files of the live page, and the page in Chromium in front of a server process without a network."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

import idol_runtime.serve
from idol_runtime.events import Event
from idol_runtime.serve.messages import End, EventMessage, StreamInfo, StreamsMessage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = Path(idol_runtime.serve.__file__).parent / "page"
MOST_BYTES = 60_000
HOSTILE = "yard <img src=x onerror=document.title='run'>"


def test_the_page_is_small_and_complete() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) <= MOST_BYTES
    html = files["index.html"]
    linked = set(re.findall(r'(?:href|src)="/page/([^"]+)"', html))
    imported = {name for text in files.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert linked == files.keys() - {"index.html"}, "each file is loaded at once, not one after the other"
    assert imported <= linked


def test_the_page_has_nothing_inline_and_no_markup_from_data() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), (
            path.name
        )
        urls = [url for url in re.findall(r"https?://[\w.]+", text) if url != "http://www.w3.org"]
        assert not urls, f"{path.name} needs other servers: {urls}"


class Cameras:
    """A server process that gets frames of two streams as long as a page is looked at."""

    def __init__(self, server: Any, kit: Any) -> None:
        self.server, self.kit, self.index = server, kit, 0
        self.url = f"http://127.0.0.1:{server.port}/"
        self.sending = ["door", HOSTILE]
        self.requests: list[str] = []

    def until(self, page: Page, condition: str | Callable[[], bool]) -> None:
        """Send frames until a condition is true, here or in the page."""
        deadline = time.monotonic() + 60
        while not (page.evaluate(condition) if isinstance(condition, str) else condition()):
            assert time.monotonic() < deadline, f"{condition}\n{page.inner_text('body')}"
            self.index += 1
            self.server.send(*(self.kit.frame(name, self.index, picture=True) for name in self.sending))
            page.wait_for_timeout(40)


def streams(state: str = "connected") -> list[StreamInfo]:
    return [
        StreamInfo("door", "rtsp://door/live", True, state, time.time() - 7),
        StreamInfo(HOSTILE, "rtsp://yard/live", True, "connected", time.time() - 9),
    ]


@pytest.fixture
def cameras(start_server: Any, kit: Any) -> Cameras:
    return Cameras(start_server(streams=streams(), class_names=["cat <b>", "dog"]), kit)


@pytest.fixture
def page(chromium: Browser, cameras: Cameras) -> Any:
    """The page on a phone; the test fails with a message in its console and with a refusal of its policy."""
    problems: list[str] = []
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: "/live" in request.url and cameras.requests.append(request.url))
    page.goto(cameras.url)
    yield page
    context.close()
    assert not problems


LIVE = ".card[data-state=live] .view:not(.stale) canvas[width='256']"


@pytest.mark.browser
def test_the_page_shows_follows_and_loses_streams_on_a_phone(page: Page, cameras: Cameras, kit: Any) -> None:
    cameras.until(page, f"document.querySelector(`.card:first-child{LIVE}`) !== null")
    assert page.locator(".name").all_inner_texts() == ["door", HOSTILE]
    page.evaluate("scrollTo(0, 10000)")
    cameras.until(page, f"document.querySelector(`.card:last-child{LIVE}`) !== null")
    assert page.title() == "idol_deploy"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    targets = page.locator(".top :is(a, button), .card :is(a, button, summary), .events label").locator(
        "visible=true"
    )
    assert all(target.bounding_box()["height"] > 43.5 for target in targets.all()), "too small to tap"
    cameras.until(page, "document.querySelectorAll('.card:first-child .track').length === 2")
    page.locator(".track").first.tap()
    assert page.url.endswith("#/stream/door/track/3")
    cameras.until(page, "scrollY === 0")  # the picture is in sight
    cameras.until(
        page, "/^Following dog #3: in view for/.test(document.querySelector('.following p').textContent)"
    )
    cameras.until(page, lambda: page.locator(".card:visible").count() == 1)
    # Pictures are asked for only where the user looks.
    cameras.until(page, lambda: parse_qs(urlsplit(cameras.requests[-1]).query) == {"stream": ["door"]})
    shade = "c => [...c.getContext('2d').getImageData(128, 150, 1, 1).data].slice(0, 3)"
    # The rest of the picture is dimmed.
    cameras.until(page, lambda: max(page.locator("canvas:visible").first.evaluate(shade)) < 70)
    page.locator(".track:visible", has_text="#12").focus()
    cameras.server.send(EventMessage(Event("track_leave", "door", "dog 3 leaves", {"id": 3}), 1))
    cameras.sending = [HOSTILE]
    cameras.until(page, "/dog #3: left/.test(document.querySelector('.following p').textContent)")
    # A row that moves keeps the focus.
    cameras.until(page, "document.activeElement.closest('li:first-child') !== null")

    cameras.server.send(StreamsMessage(streams("lost")))
    cameras.until(page, "document.querySelector('.card').dataset.state === 'lost'")
    assert re.fullmatch(r"Camera lost \d+ s ago", page.inner_text(".notice strong"))
    assert re.fullmatch(r"Last picture [\d:]+, \d+ s old", page.inner_text(".notice span"))
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.url.endswith("#/")
    cameras.until(page, lambda: page.locator(".card:visible").count() == 2)

    cameras.server.send(End())
    page.locator("#banner", has_text="The run has ended").wait_for()
    cameras.until(page, lambda: page.locator(".notice strong").all_inner_texts() == ["Ended", "Ended"])


@pytest.mark.browser
def test_a_picture_that_the_server_kept_is_not_live(page: Page, cameras: Cameras, kit: Any) -> None:
    def shows_its_age() -> bool:
        cameras.server.send(kit.frame("door", 1, picture=True, wall=time.time() - 65))
        notices = page.locator(".card:first-child .stale .notice span").all_inner_texts()
        return any(re.fullmatch(r"Last picture [\d:]+, 1 min 0\d s old", notice) for notice in notices)

    cameras.sending = []
    cameras.until(page, shows_its_age)


@pytest.mark.browser
def test_an_absent_track_can_be_zoomed_before_the_first_picture(page: Page, cameras: Cameras) -> None:
    page.goto(f"{cameras.url}#/stream/door/track/99")
    page.locator(".zoom:visible").tap()
    cameras.until(page, f"document.querySelector(`.card:first-child{LIVE}`) !== null")


@pytest.mark.browser
def test_functions_of_the_page(page: Page) -> None:
    assert (
        page.evaluate(
            """async () => {
        const { Records } = await import('/page/feed.js');
        const json = new TextEncoder().encode(JSON.stringify({ type: 'ü' }));
        const record = new Uint8Array(8 + json.length + 3);
        new DataView(record.buffer).setUint32(0, json.length);
        new DataView(record.buffer).setUint32(4, 3);
        record.set(json, 8);
        record.set([1, 2, 3], 8 + json.length);
        const all = new Uint8Array([...record, ...record, ...record]);
        return [1, 5, 20, 31, 1000].map((size) => {
          const records = new Records();
          const seen = [];
          for (let at = 0; at < all.length; at += size) seen.push(...records.push(all.subarray(at, at + size)));
          return seen.map(([value, jpeg]) => `${value.type}${jpeg}`).join(' ');
        });
    }"""
        )
        == ["ü1,2,3 ü1,2,3 ü1,2,3"] * 5
    )
    text = "([name, value]) => import('/page/text.js').then((module) => module[name](value))"
    spans = {5.9: "5 s", 65: "1 min 05 s", 3600: "1 h 00 min", 90000: "1 d 1 h", -3: "0 s"}
    durations = {0.0014: "1.4 ms", 0.0426: "43 ms", 1.26: "1.3 s", 75: "75 s"}
    assert [page.evaluate(text, ["span", value]) for value in spans] == list(spans.values())
    assert [page.evaluate(text, ["duration", value]) for value in durations] == list(durations.values())
    # A box in a corner: the window stays in the frame, has its shape, and holds the box.
    window = page.evaluate("import('/page/follow.js').then((m) => m.zoomed([400, 800], [700, 0, 800, 60]))")
    assert window == pytest.approx({"x": 500, "y": 0, "width": 300, "height": 150})
    path = page.evaluate(
        "import('/page/tracks.js').then((m) => m.timeline([[0, 100], [890, 950]], 1000, 300))"
    )
    assert path == "M190.0 0H250.0V1H190.0z"


@pytest.mark.browser
def test_a_page_without_its_token_asks_for_it(chromium: Browser, start_server: Any, kit: Any) -> None:
    server = start_server(token=kit.token)
    context = chromium.new_context()
    page = context.new_page()
    track = "/#/stream/a%2Fb%20%C3%BC/track/7"
    page.goto(f"http://127.0.0.1:{server.port}{track}")
    assert urlsplit(page.url).path == "/login"
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="This token is wrong").wait_for()
    page.get_by_label("Token").fill(kit.token)
    page.keyboard.press("Enter")
    page.locator("#connection[data-state=open]").wait_for()
    assert page.url.endswith(f"{server.port}{track}"), "the login leads to another view"
    context.clear_cookies()  # the session ends
    page.wait_for_url("**/login" + track[1:])
    context.close()
