"""How ``pagescan model`` shows a page table: as a strip of cells for a reader, or as data."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.pages import PRESENT
from ..query import category_names
from .model_look import Cell, Strip, View
from .model_stage import Scene, page_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..model import Process

_BOLD, _DIM, _GREEN, _YELLOW = 1, 2, 32, 33


class Kind(NamedTuple):
    """How a kind of entry is drawn, and what it means."""

    letter: str
    meaning: str


KINDS = {
    "unmapped": Kind("x", "not mapped"),
    "no table": Kind(".", "no page table"),
    "empty": Kind("-", "empty entry"),
    "own": Kind("P", "a page of the process's own"),
    "file": Kind("F", "a page of a file or of shared memory"),
    "zero": Kind("0", "the shared page of zeros"),
    "swap": Kind("S", "in swap"),
    "marker": Kind("m", "a marker: no page, only the bit"),
    "guard": Kind("G", "a guard"),
    "huge": Kind("H", "a huge page, one entry"),
    "huge zero": Kind("Z", "the huge page of zeros, one entry"),
}
#: What stands in the line of bits.
PROTECTED, WRITTEN, TOUCHED = "#", "W", "T"
_BITS = {
    PROTECTED: "protected: the bit is set",
    WRITTEN: "PAGEMAP_SCAN says WRITTEN",
    TOUCHED: "PAGEMAP_SCAN says ACCESSED",
}
_LABEL = 7


def draw(process: Process, address: int, length: int) -> None:
    """Print the page table under [address, address + length) of a process of the model (whole pages)."""
    strip = View(process, address, -(-length // process.page_size)).strip()
    print("\n".join(strip_lines(strip, width=80)))


def bit_of(cell: Cell) -> str:
    """What stands in the line of bits."""
    if cell.protected:
        return PROTECTED
    return WRITTEN if cell.written else TOUCHED if cell.touched else " "


def page_range(cell: Cell) -> str:
    """``"7"``, or ``"8-511"``."""
    return str(cell.first) if cell.last - cell.first == 1 else f"{cell.first}-{cell.last - 1}"


class Paint:
    """Colours a text, or does not."""

    def __init__(self, colour: bool = False):
        self._colour = colour

    def __call__(self, text: str, *codes: int) -> str:
        if not self._colour or not codes:
            return text
        return f"\033[{';'.join(map(str, codes))}m{text}\033[0m"

    def cell(self, text: str, cell: Cell) -> str:
        """In the colour of its bit."""
        codes = {PROTECTED: (_GREEN,), WRITTEN: (_YELLOW, _BOLD), TOUCHED: (_YELLOW, _BOLD)}.get(bit_of(cell), ())
        return self(text, *codes)


def strip_lines(strip: Strip, width: int, paint: Paint | None = None) -> Iterator[str]:
    """The strip as lines of at most ``width`` columns, cut into several rows of cells where it must be."""
    paint = paint or Paint()
    row: list[Cell] = []
    used = _LABEL + 1
    for cell in strip.cells:
        if row and used + _width_of(cell) + 1 > width:
            yield from _row_lines(row, paint)
            row, used = [], _LABEL + 1
        row.append(cell)
        used += _width_of(cell) + 1
    yield from _row_lines(row, paint)


def _width_of(cell: Cell) -> int:
    return max(3, len(page_range(cell)) + 2, len(_frame_of(cell)))


def _frame_of(cell: Cell) -> str:
    return "" if cell.frame is None else str(cell.frame)


def _row_lines(cells: list[Cell], paint: Paint) -> Iterator[str]:
    def line(label: str, texts: Iterable[str], edge: str = "|") -> str:
        boxes = [paint.cell(f"{text:^{_width_of(cell)}}", cell) for text, cell in zip(texts, cells, strict=True)]
        return f"{label:<{_LABEL}}{edge}{edge.join(boxes)}{edge}".rstrip()

    yield paint(f"{'page':<{_LABEL}} {' '.join(f'{page_range(c):^{_width_of(c)}}' for c in cells)}".rstrip(), _DIM)
    yield line("entry", (KINDS[cell.kind].letter for cell in cells))
    if any(cell.frame is not None for cell in cells):
        yield line("frame", map(_frame_of, cells))
    yield line("bit", map(bit_of, cells))


def scene_lines(scene: Scene, where: str, width: int, paint: Paint) -> Iterator[str]:
    """One step: what was done, the page tables, what PAGEMAP_SCAN answers, and why."""
    yield paint(f"{where}  {scene.step.title}", _BOLD)
    for operation in scene.operations:
        yield from textwrap.wrap(operation, width, initial_indent="> ", subsequent_indent="    ")
    for strip in scene.strips:
        yield ""
        yield paint(_caption(strip, alone=len(scene.strips) == 1), _DIM)
        yield from strip_lines(strip, width, paint)
        yield from _answer_lines(strip, width)
    yield ""
    yield from textwrap.wrap(scene.step.why, width)


def _caption(strip: Strip, *, alone: bool) -> str:
    name = "" if alone and strip.name == "memory" else f"{strip.name}: "
    registered = f"registered for {strip.registered}" if strip.registered != "in part" else "registered in part"
    state = registered if strip.registered else "not registered"
    tables = f"{strip.tables or 'no'} page table{'' if strip.tables == 1 else 's'}"
    return f"{name}process {strip.pid}, {state}, {tables}"


def _answer_lines(strip: Strip, width: int) -> Iterator[str]:
    """What PAGEMAP_SCAN answers of the strip: one line for each set of categories, with its pages."""
    found: dict[int, list[int]] = {}
    for cell in strip.cells:
        if cell.categories is not None:
            found.setdefault(cell.categories, []).extend(range(cell.first, cell.last))
    for categories, pages in found.items():
        names = " ".join(category_names(categories)) or "(nothing)"
        text = f"{names}: {page_words(pages)}"
        yield from textwrap.wrap(text, width, initial_indent=f"{'scan':<{_LABEL + 1}}", subsequent_indent=" " * 10)
    if not found:
        yield f"{'scan':<{_LABEL + 1}}no answer"


def legend_lines(scenes: Iterable[Scene], width: int) -> Iterator[str]:
    """What the letters in these scenes mean."""
    cells = [cell for scene in scenes for strip in scene.strips for cell in strip.cells]
    kinds, bits = {cell.kind for cell in cells}, {bit_of(cell) for cell in cells}
    entries = [f"{kind.letter} {kind.meaning}" for name, kind in KINDS.items() if name in kinds]
    yield from _legend("entry", entries, width)
    if any(cell.frame is not None for cell in cells):
        yield from _legend("frame", ["the number of the page frame (of physical memory) that the entry maps"], width)
    if bits - {" "}:
        yield from _legend("bit", [f"{letter} {meaning}" for letter, meaning in _BITS.items() if letter in bits], width)


def _legend(label: str, items: list[str], width: int) -> list[str]:
    return textwrap.wrap("; ".join(items), width, initial_indent=f"{label:<{_LABEL}}", subsequent_indent=" " * _LABEL)


# --- as data ----------------------------------------------------------------------------------------------------------


def scene_document(scene: Scene) -> dict[str, Any]:
    """A step for the JSON document (docs/commands/model.md)."""
    return {
        "name": scene.step.name,
        "title": scene.step.title,
        "why": scene.step.why,
        "operations": list(scene.operations),
        "memory": [_strip_document(strip) for strip in scene.strips],
    }


def _strip_document(strip: Strip) -> dict[str, Any]:
    return {
        "name": strip.name,
        "pid": strip.pid,
        "start": f"{strip.start:#x}",
        "pages": strip.pages,
        "registered": strip.registered or None,
        "page_tables": strip.tables,
        "runs": [_run(cell) for cell in strip.cells],
    }


def _run(cell: Cell) -> dict[str, Any]:
    return {
        "first": cell.first,
        "last": cell.last,
        "entry": cell.kind,
        "present": cell.entry > 0 and bool(cell.entry & PRESENT),
        "protected": cell.protected,
        "written": cell.written,
        "frame": cell.frame,
        "users": cell.users if cell.frame is not None else None,
        "categories": None if cell.categories is None else category_names(cell.categories),
    }
