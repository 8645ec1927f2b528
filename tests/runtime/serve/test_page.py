"""The files of the page: small, complete, and without anything that its Content-Security-Policy refuses."""

import re
from pathlib import Path

import idol_runtime.serve

PAGE = Path(idol_runtime.serve.__file__).parent / "page"
MOST_BYTES = 60_000


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
