"""The lines of the live view as text."""

from __future__ import annotations

import pytest

from pagescan.units import SECOND
from pagescan.views.choice import Choice, Column, choose
from pagescan.views.heat import LEVELS
from pagescan.views.layout import ASCII, BLOCKS, Vitals, Widths, detail, header, heading, keys, legend, table_line
from pagescan.views.state import State
from pagescan.views.words import brief

from .looks import look, mapping

HEAP = mapping(0x100, 256, "[heap]")
SHARED = mapping(0x4000, 64, "/dev/shm/table", "rw-s")
VITALS = Vitals(4321, "python train.py", SECOND, SECOND, 1_500_000, 0.021, 210_000)


def text(line) -> str:
    return "".join(piece for piece, _ in line)


@pytest.fixture
def state() -> State:
    return State.start(0, [HEAP]).after(look(1, [HEAP, SHARED], (0x100, 128), (0x4000, 64)))


def line_of(state: State, name: str):
    return next(line for line in choose(state, Choice()) if line.row.mapping.name == name)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0"), (68.3, "68"), (4096, "4K"), (1536, "1.5K"), (10239, "10K"), (1023 * 1024, "1.0M"), (1 << 30, "1G"),
     (999 * 1024, "999K"), (5.5 * 2**40, "5.5T")],
)  # fmt: skip
def test_brief_sizes(size, shown):
    assert brief(size) == shown
    assert len(shown) <= 5


@pytest.mark.parametrize("width", range(4, 220))
def test_every_line_fits(state, width):
    widths = Widths.of(width)
    columns = (widths.name, widths.size, widths.now, widths.minute, widths.address, widths.strip)
    assert min(columns) >= 0
    rest = [header(VITALS, state.totals(), width, 3), header(VITALS, state.totals(), width, 1)]
    lines = [line for block in rest for line in block]
    lines += [detail(state, line_of(state, "[heap]"), width), legend(width), keys(Choice(), width)]
    assert max(len(text(line)) for line in lines) <= width
    if width >= 20:
        assert len(text(heading(Choice(), widths, False))) == width
        assert len(text(table_line(state, line_of(state, "[heap]"), widths))) == width


def test_header(state):
    first, amounts, costs = (text(line) for line in header(VITALS, state.totals(), 100, 3))
    assert first == "process 4321  python train.py"
    assert amounts == "768 KiB/s now   768 KiB/s last minute   2 mappings, 1.2 MiB   1 new"
    assert costs == "every 1.00 s   look 1.50 ms   own CPU 2.1 %   target held 210 us"


def test_header_in_one_line_has_the_rate_first(state):
    (line,) = header(VITALS, state.totals(), 20, 1)
    assert text(line) == "768K/s 4321 python t"


def test_header_says_what_is_special(state):
    vitals = Vitals(1, "x", SECOND, 3 * SECOND, recorded=7, ended="it returned 3", remark="hugetlb")
    first, _, costs = (text(line) for line in header(vitals, state.totals(), 200, 3))
    assert first == " ENDED: it returned 3 process 1   REC 7   x"
    assert "every 1.00 s (slowed to 3.00 s)" in costs
    assert costs.endswith("target held 0 ns   hugetlb")
    paused = Vitals(1, "x", SECOND, paused=True)
    assert text(header(paused, state.totals(), 80, 3)[0]) == " PAUSED process 1  x"


def test_names_cannot_move_the_cursor(state):
    hostile = mapping(0x100, 1, "/tmp/a\x1b[2Jb")
    state = State.start(0, [hostile])
    assert "\x1b" not in text(table_line(state, choose(state, Choice())[0], Widths.of(80)))
    assert "\x1b" not in text(detail(state, choose(state, Choice())[0], 200))
    vitals = Vitals(1, "evil\x1b]0;x\x07", SECOND)
    assert "\x1b" not in text(header(vitals, state.totals(), 80, 3)[0])


def test_table_line(state):
    widths = Widths.of(60)
    # Half of the heap, its lower one, was written to; the strip has 20 cells.
    assert (widths.name, widths.strip) == (15, 20)
    assert text(table_line(state, line_of(state, "[heap]"), widths)) == (
        "  [heap]             1M   512K     512K " + "█" * 10 + " " * 10
    )
    assert text(table_line(state, line_of(state, "/dev/shm/table"), widths)) == (
        "+ table            256K   256K     256K " + "█" * 20
    )


def test_table_line_over_time(state):
    state = state.after(look(2, [HEAP, SHARED], (0x100, 16)))
    pieces = table_line(state, line_of(state, "[heap]"), Widths.of(60), over_time=True, alphabet=ASCII)
    assert text(pieces).endswith(" " * 18 + ASCII[7] + ASCII[4])
    assert [style for _, style in pieces[-2:]] == ["heat7", "heat4"]


def test_marks(state):
    gone = state.after(look(2, [HEAP], untracked={(HEAP.start, HEAP.end): "it is sealed"}))
    widths = Widths.of(80)
    assert text(table_line(gone, line_of(gone, "/dev/shm/table"), widths)).startswith("- table")
    assert text(table_line(gone, line_of(gone, "[heap]"), widths)).startswith("! [heap]")
    assert "-        - " in text(table_line(gone, line_of(gone, "[heap]"), widths))
    assert "not tracked: it is sealed" in text(detail(gone, line_of(gone, "[heap]"), 120))
    assert "gone since 0 ns" in text(detail(gone, line_of(gone, "/dev/shm/table"), 120))


def test_detail(state):
    assert text(detail(state, line_of(state, "/dev/shm/table"), 150)) == (
        "0x4000000-0x4040000 rw-s 256 KiB  256 KiB in the last look, 0 ns old  /dev/shm/table"
    )


def test_nameless_memory_is_told_by_its_address():
    state = State.start(0, [mapping(0x7F000, 1)])
    (line,) = choose(state, Choice())
    assert text(table_line(state, line, Widths.of(80))).startswith("  anon 7f000000 ")
    assert text(table_line(state, line, Widths.of(120))).startswith("  (anonymous) ")
    assert " 7f000000 " in text(table_line(state, line, Widths.of(120)))


def test_heading_has_an_arrow():
    widths = Widths.of(80)
    assert "NOW/s▼" in text(heading(Choice(), widths, False))
    assert "1 MIN/s▲" in text(heading(Choice(Column.MINUTE, reverse=True), widths, False))
    assert "HEAT OVER TIME" in text(heading(Choice(), widths, True))
    assert text(heading(Choice(), Widths.of(20), False)) == "  MAPPING     NOW/s▼"


def test_keys_say_what_is_filtered():
    choice = Choice(words=("heap", "rw"), busy=True)
    assert text(keys(choice, 80)).startswith("only heap rw only busy  q quit ")


def test_alphabets_have_all_levels():
    assert len(BLOCKS) == len(ASCII) == LEVELS + 1
    assert ASCII.isascii()
    assert legend(80, ASCII)[1] == (ASCII[1], "heat1")
