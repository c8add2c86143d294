"""The HTML file in a real browser: it draws, answers, zooms, and asks nobody for anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagescan.reports import Wishes
from pagescan.reports.html import html_page

from .browser import Page, chromium
from .tiny import material, write_tiny
from .workload import SWEPT

PAGE = 4096
#: Colours in the canvas, and how many pixels are not transparent.
PIXELS = """
const words = new Uint32Array(window.pixels(document.getElementById('heat-canvas')).buffer);
return [new Set(words).size, words.filter((word) => word >>> 24).length / words.length];
"""
COLOUR = """
const canvas = document.getElementById('heat-canvas');
const [x, y] = [...arguments].map((at) => Math.floor(at * devicePixelRatio)), first = (y * canvas.width + x) * 4;
return [...window.pixels(canvas).slice(first, first + 4)];
"""
TIP = "const tip = document.getElementById('heat-tip'); return tip.hidden ? null : tip.innerText.split('\\n')"
VIEW = "const {time, rows} = window.pagescan.map.view; return [...time, ...rows]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def file(tmp_path_factory, workload) -> Path:
    path = tmp_path_factory.mktemp("page") / "a report #1.html"
    path.write_bytes(html_page(workload, Wishes()))
    return path


@pytest.fixture
def page(browser, file) -> Page:
    browser.open(file)
    return browser


def place(page, row, column):
    """Where a cell of the heat map lies in the window: its middle."""
    plot = page.plot()
    script = """
        const {map, data} = window.pagescan, [row, column] = arguments;
        return [map.x((data.times[column] + data.times[column + 1]) / 2) - map.plot.left,
                map.y((data.tops[row] + data.tops[row + 1]) / 2) - map.plot.top];
    """
    x, y = page.run(script, row, column)
    return plot["left"] + x, plot["top"] + y


def row_of(page, number):
    return page.run("return window.pagescan.data.raw.low.findIndex((low) => low >= arguments[0])", number)


class TestDrawing:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_all_canvases_are_drawn_and_nothing_is_logged(self, browser, file, scheme):
        browser.open(file, scheme)
        colours, filled = browser.run(PIXELS)
        assert colours > 20
        assert filled > 0.1
        painted = browser.run(
            "return [...document.querySelectorAll('.uplot canvas')]"
            ".map((canvas) => new Set(new Uint32Array(window.pixels(canvas).buffer)).size)"
        )
        assert len(painted) == 3
        assert min(painted) > 10
        assert browser.errors() == []

    def test_light_and_dark_differ_and_change_while_open(self, page):
        ground = "return getComputedStyle(document.body).backgroundColor"
        row = row_of(page, 0x55D0C8B00)
        script = "const {map, data} = window.pagescan; return [map.plot.left + 5, map.y(data.tops[arguments[0]]) + 3]"
        spot = page.run(script, row)
        light = page.run(ground), page.run(COLOUR, *spot)
        page.scheme("dark")
        page.settle()
        dark = page.run(ground), page.run(COLOUR, *spot)
        assert light == ("rgb(255, 255, 255)", [103, 0, 13, 255])
        assert dark == ("rgb(18, 21, 28)", [252, 253, 191, 255])
        assert page.errors() == []

    def test_asks_nobody_for_anything(self, page, file):
        events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
        asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {file.as_uri()}

    def test_narrow_window(self, page):
        page.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        try:
            page.until("return window.pagescan.map.plot.left === 118")
            assert page.run("return document.documentElement.scrollWidth <= innerWidth")
            assert page.run(PIXELS)[1] > 0.05
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_recording_that_has_just_begun(self, browser, tmp_path, empty):
        (tmp_path / "empty.html").write_bytes(html_page(empty, Wishes()))
        browser.open(tmp_path / "empty.html")
        assert browser.errors() == []
        assert "Nothing was written to in this recording." in browser.run("return document.body.innerText")

    def test_one_sample(self, browser, tmp_path):
        write_tiny(tmp_path / "r", samples=1)
        (tmp_path / "one.html").write_bytes(html_page(material(tmp_path / "r"), Wishes()))
        browser.open(tmp_path / "one.html")
        assert browser.errors() == []
        assert browser.run(PIXELS)[1] > 0.1


class TestHover:
    def test_tells_address_mapping_time_and_rate(self, page):
        """The sweep: sample 10 writes its eleventh fiftieth of 64 MiB, pages 3276 to before 3604."""
        row = row_of(page, SWEPT[0] + 3400)
        low, high = page.run(
            "const r = window.pagescan.data.raw; return [r.low[arguments[0]], r.high[arguments[0]]]", row
        )
        size = (high - low) * PAGE
        page.mouse("mouseMoved", *place(page, row, 10))
        assert page.run(TIP) == [
            "(anonymous) rw-p",
            f"{low * PAGE:#x}-{high * PAGE:#x} ({size // 1024} KiB)",
            "1.000 s to 1.100 s (1 sample)",
            f"{size * 10 / 2**20:.1f} MiB/s; {high - low} pages written, 100.0 % of the range in a sample",
        ]
        page.mouse("mouseMoved", *place(page, row, 11))
        assert page.run(TIP)[2:] == [
            "1.100 s to 1.200 s (1 sample)",
            "0 bytes/s; 0 pages written, 0 % of the range in a sample",
        ]

    def test_is_gone_outside(self, page):
        page.mouse("mouseMoved", *place(page, 5, 5))
        assert page.run(TIP)
        page.mouse("mouseMoved", 1, 1)
        assert page.run(TIP) is None

    def test_charts_show_the_same_time(self, page):
        page.mouse("mouseMoved", *place(page, 5, 160))
        legend = page.run(
            "return [...document.querySelectorAll('.u-legend')[0].rows].map((row) => "
            "[...row.cells].map((cell) => cell.textContent).join(' '))"
        )
        assert "time 16.100 s" in legend
        assert "(anonymous) 0x7f2b00000000 16.0 MiB/s" in legend


class TestZoom:
    def test_wheel_keeps_what_is_under_the_pointer(self, page):
        row = row_of(page, SWEPT[0] + 3400)
        before, (x, y) = page.run(VIEW), (round(at) for at in place(page, row, 100))
        page.mouse("mouseMoved", x, y)
        cell = page.run("return window.pagescan.map.mark")
        page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
        after = page.run(VIEW)
        assert after[1] - after[0] == pytest.approx((before[1] - before[0]) / 2.718, rel=0.01)
        assert after[3] - after[2] == pytest.approx((before[3] - before[2]) / 2.718, rel=0.01)
        assert page.run("return window.pagescan.map.mark") == cell

    def test_charts_follow_and_lead(self, page):
        scales = "return window.pagescan.charts.plots.map((plot) => [plot.scales.x.min, plot.scales.x.max])"
        assert page.run(scales) == [[0, 30000]] * 3
        page.run("document.getElementById('zoom-in').click()")
        page.settle()
        assert page.run(scales) == [[7500, 22500]] * 3
        page.run("window.pagescan.charts.plots[1].setScale('x', {min: 6000, max: 12000})")
        page.settle()
        assert page.run(scales) == [[6000, 12000]] * 3
        assert page.run(VIEW)[:2] == [6000, 12000]
        page.run("document.getElementById('reset').click()")
        page.settle()
        assert page.run(scales) == [[0, 30000]] * 3

    def test_dragging_a_chart_zooms_everything(self, page):
        box = page.run(
            "const over = document.querySelectorAll('.u-over')[0]; over.scrollIntoView({block: 'center'});"
            "const box = over.getBoundingClientRect(); return {left: box.left, top: box.top, width: box.width}"
        )
        page.settle()
        y = box["top"] + 50
        page.mouse("mouseMoved", box["left"] + box["width"] / 3, y)
        page.mouse("mousePressed", box["left"] + box["width"] / 3, y, button="left", buttons=1, clickCount=1)
        page.mouse("mouseMoved", box["left"] + box["width"] * 2 / 3, y, button="left", buttons=1)
        page.mouse("mouseReleased", box["left"] + box["width"] * 2 / 3, y, button="left", clickCount=1)
        assert page.run(VIEW)[:2] == pytest.approx([10_000, 20_000], abs=100)

    def test_dragging_the_map_pans(self, page):
        page.run("window.pagescan.map.zoom(0.25)")
        plot, before = page.plot(), page.run(VIEW)
        x, y = plot["left"] + plot["width"] / 2, plot["top"] + plot["height"] / 2
        page.mouse("mouseMoved", x, y)
        page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        page.mouse("mouseMoved", x - plot["width"] / 10, y, button="left", buttons=1)
        page.mouse("mouseReleased", x - plot["width"] / 10, y, button="left", clickCount=1)
        after = page.run(VIEW)
        assert after[0] - before[0] == pytest.approx((before[1] - before[0]) / 10, rel=0.02)
        assert after[2:] == pytest.approx(before[2:])

    def test_page_scrolls_where_there_is_nothing_to_zoom_out_of(self, page):
        turn = (
            "return document.getElementById('heat-canvas').dispatchEvent("
            "new WheelEvent('wheel', {deltaY: arguments[0], cancelable: true}))"
        )
        assert page.run(turn, 300), "the wheel was taken from the page"
        assert not page.run(turn, -300)
        assert not page.run(turn, 100)

    def test_scale(self, page):
        before = page.run(PIXELS)[0]
        page.run(
            "const scale = document.getElementById('scale'); scale.value = 'linear';"
            "scale.dispatchEvent(new Event('change'))"
        )
        assert page.run(PIXELS)[0] != before
        assert "evenly" in page.run("return document.getElementById('legend-marks').textContent")


class TestKeyboard:
    def test_everything_is_reached_with_tab(self, page):
        page.run("document.body.focus(); window.scrollTo(0, 0)")
        names = []
        for _ in range(6):
            page.keys("\ue004")  # Tab
            names.append(page.run("return document.activeElement.id || document.activeElement.tagName"))
        assert names[:5] == ["zoom-in", "zoom-out", "reset", "scale", "heat"]
        assert names[5] == "TH"

    def test_arrows_move_a_mark_that_is_read_out(self, page):
        page.run("document.getElementById('heat').focus()")
        page.keys("\ue014")  # right: the mark appears in the middle
        assert page.run("return window.pagescan.map.mark.column") == 150
        page.keys("\ue014")
        assert page.run("return window.pagescan.map.mark.column") == 155
        said = page.run("return document.getElementById('heat-readout').textContent")
        assert said == "; ".join(page.run(TIP))
        assert "15.500 s to 15.600 s" in said

    def test_keys_zoom_move_and_reset(self, page):
        whole = page.run(VIEW)
        page.run("document.getElementById('heat').focus()")
        page.keys("+")
        assert page.run(VIEW)[:2] == [7500, 22500]
        page.driver.execute_script(
            "document.getElementById('heat').dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'ArrowRight', shiftKey: true}))"
        )
        assert page.run(VIEW)[:2] == [10500, 25500]
        page.keys("0")
        assert page.run(VIEW) == whole
        assert page.errors() == []

    def test_legend_switches_lines(self, page):
        page.run("document.querySelectorAll('.u-legend .u-series th')[1].focus()")
        assert page.run("return window.pagescan.charts.plots[0].series[1].show")
        page.keys("\ue007")  # Enter
        assert not page.run("return window.pagescan.charts.plots[0].series[1].show")
