"""The live view itself, driven by Textual's pilot: keys, sizes, and the end of the process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("textual", reason="needs the package textual (the extra cli)")

from textual.events import Paste
from textual.pilot import Pilot

from pagescan.errors import PagescanError
from pagescan.units import SECOND
from pagescan.views.app import HelpScreen, TopApp
from pagescan.views.choice import Choice, Column
from pagescan.views.source import Ended

from .looks import Script, look, mapping

HEAP = mapping(0x100, 256, "[heap]")
ARRAY = mapping(0x1000, 128)
DATA = mapping(0x50, 4, "/usr/lib/libz.so.1")
ALL = [DATA, HEAP, ARRAY]
FIRST = look(0, ALL)
BUSY = look(1, ALL, (0x100, 100), (0x1000, 10))
AFTER = look(2, ALL, (0x1000, 20))
#: No tick comes within a test: looks are taken when a test asks for them.
NEVER = 10**6 * SECOND


def drive(source: Script, steps: Callable[[TopApp, Pilot], Awaitable[None]], size=(80, 24)) -> TopApp:
    """Run the view on a screen of this size, and the steps in it; then it is quit."""

    async def run() -> TopApp:
        app = TopApp(source, NEVER)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)
        return app

    return asyncio.run(run())


async def take(app: TopApp, pilot: Pilot) -> None:
    await app.look()
    await pilot.pause()


def screen(app: TopApp) -> list[str]:
    """The lines on the screen, as they were drawn."""
    width, height = app.size
    strips = app.screen._compositor.render_strips()
    lines = ["".join(segment.text for segment in strip) for strip in strips]
    assert [len(line) for line in lines] == [width] * height
    return [line.rstrip() for line in lines]


def shown(app: TopApp) -> list[str]:
    """The names of the mappings on the screen, from the top; nameless memory by its address."""
    lines = screen(app)
    top = next(at for at, line in enumerate(lines) if "NOW/s" in line) + 1
    names = (line[2:22].split("  ")[0].strip() for line in lines[top : top + app.query_one("#table").size.height])
    return [name for name in names if name]


def test_screen_of_80_by_24():
    async def steps(app, pilot):
        await take(app, pilot)
        lines = screen(app)
        assert lines[0] == "process 4321  python train.py"
        assert lines[1] == "440 KiB/s now   440 KiB/s last minute   3 mappings, 1.5 MiB"
        assert lines[2].startswith("every 277h 46m   look 1.50 ms   target held 210 us")
        assert lines[3].startswith("  MAPPING                  SIZE NOW/s▼  1 MIN/s HEAT BY ADDRESS")
        assert lines[4].startswith("  [heap]                     1M   400K     400K ██████████")
        assert lines[5].startswith("  anon 1000000             512K    40K      40K ")
        assert lines[6] == "  libz.so.1                 16K      0        0"
        assert lines[22].startswith("written: ▁any ▂>1/128")
        assert lines[23].startswith(" q quit  space pause")

    drive(Script(FIRST, BUSY), steps)


def test_second_look_moves_the_order():
    async def steps(app, pilot):
        await take(app, pilot)
        assert shown(app) == ["[heap]", "anon 1000000", "libz.so.1"]
        await take(app, pilot)
        assert shown(app) == ["anon 1000000", "[heap]", "libz.so.1"]
        assert "80 KiB/s now   260 KiB/s last minute" in screen(app)[1]
        assert "own CPU" in screen(app)[2]

    drive(Script(FIRST, BUSY, AFTER), steps)


@pytest.mark.parametrize(
    ("keys", "column", "names"),
    [
        (["s"], Column.MINUTE, ["[heap]", "anon 1000000", "libz.so.1"]),
        ([">"], Column.MINUTE, ["[heap]", "anon 1000000", "libz.so.1"]),
        (["<"], Column.SIZE, ["[heap]", "anon 1000000", "libz.so.1"]),
        (["<", "<"], Column.NAME, ["anon 1000000", "[heap]", "libz.so.1"]),
        (["s", "s"], Column.ADDRESS, ["libz.so.1", "[heap]", "anon 1000000"]),
        (["s", "s", "r"], Column.ADDRESS, ["anon 1000000", "[heap]", "libz.so.1"]),
    ],
)
def test_sorting(keys, column, names):
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press(*keys)
        assert app.choice.column is column
        assert shown(app) == names

    drive(Script(FIRST, BUSY), steps)


def test_filter_narrows_while_it_is_typed_and_is_kept_by_enter():
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press("slash", *"lib")
        assert screen(app)[-1] == "/lib   Enter keeps it, Esc takes it back"
        assert shown(app) == ["libz.so.1"]
        await pilot.press("enter", "s")
        assert app.choice == Choice(Column.MINUTE, words=("lib",))
        assert "only lib" in screen(app)[-1]
        # Keys were letters only while it was open.
        await pilot.press("slash", "backspace", "backspace", "backspace", *"qs")
        assert app.choice.words == ("qs",)
        assert shown(app) == []
        await pilot.press("escape")
        assert app.choice.words == ()
        assert not app.typing
        assert len(shown(app)) == 3

    drive(Script(FIRST, BUSY), steps)


def test_filter_takes_what_is_pasted_and_forgets_it_at_ctrl_u():
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press("slash")
        app.post_message(Paste("hea\nsecond line"))
        await pilot.pause()
        assert shown(app) == ["[heap]"]
        await pilot.press("ctrl+u", "/")
        assert app.choice.words == ("/",)
        assert shown(app) == ["libz.so.1"]

    drive(Script(FIRST, BUSY), steps)


def test_idle_mappings_are_left_out():
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press("i")
        assert shown(app) == ["[heap]", "anon 1000000"]
        await pilot.press("i")
        assert len(shown(app)) == 3

    drive(Script(FIRST, BUSY), steps)


def test_heat_over_time():
    async def steps(app, pilot):
        await take(app, pilot)
        await take(app, pilot)
        await pilot.press("t")
        lines = screen(app)
        assert "HEAT OVER TIME" in lines[3]
        # Of the array's 128 pages 10 and 20; of the heap's 256 pages 100 and none.
        assert lines[4].endswith("▅▆")
        assert lines[5].endswith("▇")

    drive(Script(FIRST, BUSY, AFTER), steps)


@pytest.mark.parametrize("key", ["space", "Z"])
def test_pause_stops_looking(key):
    source = Script(FIRST, BUSY, AFTER)

    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press(key)
        assert screen(app)[0].startswith(" PAUSED process 4321")
        assert source.looked == 1
        await pilot.press(key)  # going on looks at once
        async with asyncio.timeout(20):
            while app.state.looks < 2:
                await pilot.pause(0.01)
        await pilot.pause()
        assert screen(app)[0] == "process 4321  python train.py"
        assert source.looked == 2

    drive(source, steps)


def test_looks_are_taken_by_themselves():
    source = Script(FIRST, BUSY, AFTER, Ended("it returned 0", 0))

    async def run():
        app = TopApp(source, SECOND // 100)
        async with app.run_test(size=(80, 24)) as pilot:
            async with asyncio.timeout(20):
                while not app.vitals.ended:
                    await pilot.pause(0.01)
            await pilot.pause()
            assert screen(app)[0].startswith(" ENDED: it returned 0 ")

    asyncio.run(run())
    assert source.looked == 3  # and none after the end


def test_end_of_the_process_keeps_what_was_known():
    async def steps(app, pilot):
        await take(app, pilot)
        await take(app, pilot)
        lines = screen(app)
        assert lines[0] == " ENDED: it was ended by signal 9 process 4321  python train.py"
        assert shown(app)[0] == "[heap]"
        await pilot.press("space", "s")  # there is nothing to pause, the rest still works
        assert not app.vitals.paused
        assert app.choice.column is Column.MINUTE
        await pilot.press("q")
        assert app.return_value is False

    drive(Script(FIRST, BUSY, Ended("it was ended by signal 9", -9)), steps)


def test_new_and_vanished_mappings_are_marked():
    new = mapping(0x8000, 16, "/dev/shm/new", "rw-s")

    async def steps(app, pilot):
        await take(app, pilot)
        await take(app, pilot)
        lines = screen(app)
        assert any(line.startswith("+ new ") for line in lines)
        assert any(line.startswith("- libz.so.1") for line in lines)
        assert "   1 new   1 gone" in lines[1]

    drive(Script(FIRST, BUSY, look(2, [HEAP, ARRAY, new], (0x8000, 16))), steps)


def test_a_chosen_line_is_told_of_in_full_and_stays_chosen():
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press("down", "down")
        assert "0x1000000-0x1080000 rw-p 512 KiB  40 KiB in the last look" in screen(app)[22]
        await take(app, pilot)
        assert shown(app)[0] == "anon 1000000"
        assert "80 KiB in the last look" in screen(app)[22]
        await pilot.press("end")
        assert "libz.so.1" in screen(app)[22]
        await pilot.press("escape")
        assert screen(app)[22].startswith("written: ")

    drive(Script(FIRST, BUSY, AFTER), steps)


def test_long_list_scrolls_to_the_chosen_line():
    many = [mapping(0x1000 + 16 * number, 8, f"map{number:03}") for number in range(100)]

    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press("s", "s", "end")
        await pilot.pause()
        assert shown(app)[-1] == "map099"
        await pilot.press("pageup", "pageup", "home")
        await pilot.pause()
        assert shown(app)[0] == "map000"
        await pilot.press("pagedown")
        await pilot.pause()
        assert "map" in screen(app)[22]

    drive(Script(look(0, many), look(1, many)), steps)


@pytest.mark.parametrize("key", ["h", "?"])
def test_help_is_shown_until_any_key(key):
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.press(key)
        assert isinstance(app.screen, HelpScreen)
        assert any("space, Z     pause" in line for line in screen(app))
        await pilot.press("down", "pagedown", "home")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("q")
        assert not isinstance(app.screen, HelpScreen)
        assert app.is_running

    drive(Script(FIRST, BUSY), steps)


@pytest.mark.parametrize(("width", "height"), [(20, 5), (12, 3), (5, 2), (1, 1), (300, 90), (80, 24)])
def test_any_size_draws(width, height):
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.resize_terminal(width, height)
        await pilot.pause()
        assert app.size == (width, height)
        screen(app)
        await pilot.press("down", "t", "h", "h", "slash", "x", "escape")
        await take(app, pilot)
        screen(app)

    drive(Script(FIRST, BUSY, AFTER), steps)


def test_what_20_by_5_shows():
    async def steps(app, pilot):
        await take(app, pilot)
        await pilot.resize_terminal(20, 5)
        await pilot.pause()
        assert screen(app) == [
            "440K/s 4321 python t",
            "  MAPPING    NOW/s▼",
            "  [heap]       400K",
            "  ~n 1000000    40K",
            "  libz.so.1       0",
        ]

    drive(Script(FIRST, BUSY), steps)


def test_an_error_while_looking_ends_the_view_and_is_kept():
    failure = PagescanError("cannot write x: no space is left there")

    async def steps(app, pilot):
        await take(app, pilot)
        await take(app, pilot)

    app = drive(Script(FIRST, BUSY, failure), steps)
    assert app.failure is failure


def test_recorded_looks_are_counted():
    async def steps(app, pilot):
        await take(app, pilot)
        assert screen(app)[0] == "process 4321   REC 1   python train.py"

    drive(Script(FIRST, BUSY, recorded=0), steps, size=(100, 24))


@pytest.mark.parametrize(("key", "interrupted"), [("q", False), ("ctrl+c", True)])
def test_quitting(key, interrupted):
    async def steps(app, pilot):
        await pilot.press(key)
        assert app.return_value is interrupted

    drive(Script(FIRST, BUSY), steps)


def test_ctrl_c_also_ends_from_the_filter_and_the_help():
    async def steps(app, pilot):
        await pilot.press("slash", "x", "ctrl+c")
        assert app.return_value is True

    drive(Script(FIRST, BUSY), steps)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_it_in_good_order(number):
    before = signal.getsignal(number)

    async def steps(app, pilot):
        os.kill(os.getpid(), number)
        await pilot.pause()
        assert app.return_value is True

    drive(Script(FIRST, BUSY), steps)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("value", "coloured"), [("1", False), (None, True)])
def test_no_color_leaves_no_colour(monkeypatch, value, coloured):
    monkeypatch.setenv("NO_COLOR", value) if value else monkeypatch.delenv("NO_COLOR", raising=False)

    async def steps(app, pilot):
        await take(app, pilot)
        background = app.screen.background_colors[1]
        found = set()
        for strip in app.screen._compositor.render_strips():
            for one in (one for one in app._filters if one.enabled):
                strip = strip.apply_filter(one, background)  # noqa: PLW2901 - filters build on each other
            found |= {segment.style.color.name for segment in strip if segment.style and segment.style.color}
        assert bool(found - {"default"}) is coloured
        assert ("red" in found) is coloured

    drive(Script(FIRST, BUSY), steps)
