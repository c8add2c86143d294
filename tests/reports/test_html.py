"""The HTML file as text: whole, safe, small."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import zlib

import numpy as np
import pytest

from pagescan.abi import Mapping
from pagescan.errors import PagescanError
from pagescan.recording import RecordingWriter
from pagescan.reports import Wishes, html
from pagescan.reports.html import html_page

from .tiny import INFO, PAGE, damage, material, pages, write_tiny


def page_of(found):
    return html_page(found, Wishes()).decode()


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


class TestData:
    def test_heat_by_hand(self, tiny):
        heat = data_of(page_of(tiny))["heat"]
        assert (heat["times"], heat["samples"]) == ([0, 100, 200, 300, 400], [1, 1, 1, 1])
        assert (heat["low"], heat["pages"]) == ([0x10, 0x11, 0x7F0000000], [1, 1, 1])
        assert [heat["names"][owner] for owner in heat["owners"]] == ["[heap] rw-p", "[heap] rw-p", "/srv/file rw-s"]
        cells = np.frombuffer(zlib.decompress(base64.b64decode(heat["cells"])), np.uint8)
        assert heat["planes"] == 1
        assert cells.reshape(3, 4).tolist() == [[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 0]]

    def test_charts_by_hand(self, tiny):
        rates, sets, counts = data_of(page_of(tiny))["charts"]
        assert [(line["name"], line["values"]) for line in rates["lines"]] == [
            ("all", [81920, 81920, 0, 81920]),
            ("[heap]", [81920, 40960, 0, 81920]),
            ("/srv/file", [0, 40960, 0, 0]),
        ]
        assert [(line["name"], line["values"]) for line in sets["lines"]] == [
            ("100 ms", [2 * PAGE, 2 * PAGE, 0, 2 * PAGE]),
            ("400 ms", [2 * PAGE, 3 * PAGE, 3 * PAGE, 3 * PAGE]),
        ]
        assert [(line["name"], line["values"]) for line in counts["lines"]] == [
            ("pages written", [2, 2, 0, 2]),
            ("regions", [1, 2, 0, 1]),
            ("pages resident", [10, 11, 12, 13]),
        ]
        assert rates["times"] == [100, 200, 300, 400]

    def test_recording_that_has_just_begun(self, empty):
        page = page_of(empty)
        assert data_of(page)["charts"] == []
        assert "Nothing was written to in this recording." in page


class TestSelfContained:
    def test_no_address_of_another_place(self, workload):
        page = page_of(workload)
        assert re.findall(r"https?:|//[a-z]|url\(|@import|src=", page.split('id="data"')[0]) == []
        assert re.findall(r"https?://", page) == []
        assert re.findall(r'(?:src|href)="(?!data:,")', page) == []

    def test_licence_of_what_is_in_it(self, tiny):
        page = page_of(tiny)
        assert "Copyright (c) 2022 Leon Sorokin" in page
        assert "uPlot=function" in page

    def test_policy_names_exactly_the_scripts_in_it(self, tiny):
        page = page_of(tiny)
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        found = {"style-src": re.findall(r"<style>(.*?)</style>", page, re.DOTALL)}
        found["script-src"] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
        for name, texts in found.items():
            hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
            assert f"{name} {' '.join(hashes)}" in policy
        assert policy.startswith("default-src 'none'; ")


class TestHostileNames:
    NAME = "/tmp/</script><script>alert(1)</script><b>&amp;\x1b[2J\udcff"

    @pytest.fixture
    def page(self, tmp_path):
        info = dataclasses.replace(INFO, command_line=("<img src=x onerror=alert(2)>", "{{SCRIPT}}", "\udcff"))
        with RecordingWriter(tmp_path / "r", info) as writer:
            writer.append(
                pages(0x10),
                time_ns=INFO.started_ns + 10**8,
                wall_ns=INFO.started_wall_ns + 10**8,
                duration_ns=1,
                mappings=[Mapping(0x10000, 0x20000, "rw-p", 0, "08:02", 5, self.NAME)],
            )
        return page_of(material(tmp_path / "r"))

    def test_are_text(self, page):
        assert "<script>alert" not in page
        assert "<img" not in page
        assert page.count("<script>") == 6
        assert "&lt;img src=x onerror=alert(2)&gt; {{SCRIPT}} \\udcff" in page
        assert "\x1b" not in page

    def test_come_back_from_the_data(self, page):
        assert data_of(page)["heat"]["names"] == ["/tmp/</script><script>alert(1)</script><b>&amp;\\x1b[2J\\udcff rw-p"]


class TestSize:
    def test_typical(self, workload):
        assert len(html_page(workload, Wishes())) < 400_000

    def test_never_above_the_limit(self, workload, monkeypatch):
        whole = len(html_page(workload, Wishes()))
        monkeypatch.setattr(html, "MAX_BYTES", whole - 60_000)
        small = html_page(workload, Wishes())
        assert len(small) <= whole - 60_000
        heat = data_of(small.decode())["heat"]
        assert sum(heat["samples"]) == 300
        cells = np.frombuffer(zlib.decompress(base64.b64decode(heat["cells"])), np.uint8)
        planes = cells.reshape(heat["planes"], -1).astype(int)
        assert int(sum(plane.sum() << 8 * number for number, plane in enumerate(planes))) == workload.page_counts.sum()

    def test_limit_that_cannot_be_kept(self, tiny, monkeypatch):
        monkeypatch.setattr(html, "MAX_BYTES", 1000)
        with pytest.raises(PagescanError, match="more than 1,000"):
            html_page(tiny, Wishes())


def test_damage_is_said(tmp_path):
    write_tiny(tmp_path / "r")
    damage(tmp_path / "r", 2)
    assert "Damaged: sample 2: reported as if" in page_of(material(tmp_path / "r"))
