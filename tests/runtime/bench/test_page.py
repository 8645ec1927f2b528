"""Tests of the page: complete, self-contained, with the report's numbers."""

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from idol_runtime.bench.page import as_page


def test_the_page_stands_alone(report: dict[str, Any]) -> None:
    page = as_page(report)
    assert "<script" not in page
    assert "src=" not in page
    tree = ElementTree.fromstring(page.replace("<!doctype html>", "").replace('<meta charset="utf-8">', ""))
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}svg"))) == 3
    assert len(list(tree.iter("table"))) == 6
    links = {value for node in tree.iter() for name, value in node.items() if name.endswith("href")}
    assert all(link.startswith("#") for link in links), "plots refer to themselves alone"


def test_the_page_has_the_table_of_power(report: dict[str, Any]) -> None:
    values = {"device_mib": 512.0, "watts": 250.0, "joules_per_frame": 2.0, "gpu_mhz": None, "throttled": []}
    sources = {"memory_source": "process", "power_source": "gpu_w", "missing": {"gpu_mhz": "NVML: <x>"}}
    report["rows"][0]["burst"] = values | sources
    page = as_page(report)
    for text in ("<th>J/frame</th>", "<td>250.0</td><td>2</td><td>-</td><td>no</td>", "NVML: &lt;x&gt;"):
        assert text in page


def test_the_page_says_what_the_report_says(report: dict[str, Any]) -> None:
    page = as_page(report)
    assert "toy &lt;1&gt;" in page
    for text in ("4.00 (2.80 to 4.80)", "fast &amp; right", "fails the golden check", "left out absent"):
        assert text in page
