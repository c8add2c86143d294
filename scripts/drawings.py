"""The figures of the tutorial, as SVG text: every cell is an entry of a page table of the model at that moment.

Text stays text, coordinates are whole numbers, and nothing depends on the time or the machine. A figure brings its own
background and follows the reader's choice of light or dark, so that it can be read on any page.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pagescan.cli.model_stage import Scene, Stage, Step, page_words
from pagescan.cli.model_stories import find_story
from pagescan.cli.model_view import PROTECTED, WRITTEN, bit_of, page_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pagescan.cli.model_look import Cell, Strip

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 800
MARGIN = 16
#: Where the strips of a film begin; the words are to the left of it.
FILM = 360
CELL, BOX, BAR = 52, 34, 14
STYLE = """
text { font-family: system-ui, sans-serif; font-size: 12px; fill: #1f2328 }
.page { fill: #ffffff; stroke: #d0d7de }
.title { font-weight: 600; font-size: 13px }
.code { font-family: ui-monospace, monospace; font-size: 11px }
.dim { fill: #59636e; font-size: 11px }
.small { font-size: 11px }
.mid { text-anchor: middle }
.box { stroke: #6e7781; fill: none }
.own { fill: #54aeff55 } .huge { fill: #54aeff99 } .file { fill: #c297ff66 } .zero { fill: #8c959f33 }
.swap { fill: #d4a72c55 } .marker { fill: none } .guard { fill: #ff818266 }
.empty { stroke-dasharray: 4 3 } .none { stroke-dasharray: 1 4 }
.protected { fill: #1a7f37 } .written { fill: #bc4c00 }
.bit { fill: #ffffff; font-weight: 600; font-size: 11px }
.link { stroke: #6e7781; stroke-width: 1.5; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .page { fill: #1b1f24; stroke: #3d444d }
  .dim { fill: #9da7b1 }
  .box, .link { stroke: #8b949e }
}
"""
#: The word in the box of each kind of entry, and its class.
WORDS = {
    "unmapped": ("", "none"),
    "no table": ("", "none"),
    "empty": ("empty", "empty"),
    "own": ("page", "own"),
    "file": ("page", "file"),
    "zero": ("zeros", "zero"),
    "swap": ("swap", "swap"),
    "marker": ("marker", "marker"),
    "guard": ("guard", "guard"),
    "huge": ("huge page", "huge"),
    "huge zero": ("huge zeros", "zero"),
}
MEANINGS = {
    "no table": "no page table",
    "empty": "empty entry",
    "own": "a page of its own",
    "file": "a page of a file",
    "zero": "the page of zeros",
    "swap": "in swap",
    "marker": "marker: only the bit",
    "guard": "guard",
    "huge": "one entry, 512 pages",
}


@dataclass
class Drawing:
    """Lines of SVG, and how far down they reach."""

    title: str
    about: str
    lines: list[str] = field(default_factory=list)
    bottom: int = MARGIN

    def text(self, x: int, y: int, words: str, kind: str = "") -> None:
        kind = f' class="{kind}"' if kind else ""
        self.lines.append(f'<text x="{x}" y="{y}"{kind}>{escape(words, quote=False)}</text>')
        self.bottom = max(self.bottom, y + 4)

    def box(self, x: int, y: int, width: int, height: int, kind: str) -> None:
        self.lines.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{kind}"/>')
        self.bottom = max(self.bottom, y + height)

    def link(self, x: int, y: int, to_x: int, to_y: int) -> None:
        """A curve from one box to another, straight at both ends."""
        middle = (y + to_y) // 2
        self.lines.append(f'<path d="M{x} {y} C{x} {middle} {to_x} {middle} {to_x} {to_y}" class="link"/>')

    def svg(self) -> str:
        height = self.bottom + MARGIN
        size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<desc>{escape(self.about)}</desc>",
                f"<style>{STYLE}</style>",
                f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="6" class="page"/>',
                *self.lines,
                "</svg>\n",
            ]
        )


# --- cells ------------------------------------------------------------------------------------------------------------


def widths(cells: Sequence[Cell], room: int) -> list[int]:
    """The width of each cell: the same for single pages; long runs share what is left."""
    runs = [cell.last - cell.first > 1 for cell in cells]
    if not any(runs):
        return [CELL] * len(cells)
    left = room - CELL * runs.count(False)
    return [left // runs.count(True) if run else CELL for run in runs]


def draw_entry(drawing: Drawing, cell: Cell, x: int, y: int, width: int) -> None:
    """One entry: what it holds, the frame it maps, and its bit."""
    word, kind = WORDS[cell.kind]
    drawing.box(x, y, width, BOX, f"box {kind}")
    middle = x + width // 2
    if cell.frame is None and word:
        drawing.text(middle, y + BOX // 2 + 4, word, "mid dim" if kind in ("empty", "marker") else "mid")
    elif cell.frame is not None:
        drawing.text(middle, y + 14, word, "mid")
        drawing.text(middle, y + 28, f"frame {cell.frame}", "mid small")
    bit = bit_of(cell)
    if bit == " ":
        drawing.box(x, y + BOX, width, BAR, "box")
        return
    drawing.box(x, y + BOX, width, BAR, f"box {'protected' if bit == PROTECTED else 'written'}")
    drawing.text(middle, y + BOX + 11, bit, "mid bit")


def draw_strip(drawing: Drawing, strip: Strip, x: int, y: int, room: int, *, numbers: bool = True) -> list[int]:
    """A strip at (x, y); returns the middle of each cell."""
    middles = []
    for cell, width in zip(strip.cells, widths(strip.cells, room), strict=True):
        if numbers:
            drawing.text(x + width // 2, y - 4, page_range(cell), "mid dim")
        draw_entry(drawing, cell, x, y, width)
        middles.append(x + width // 2)
        x += width
    return middles


def draw_legend(drawing: Drawing, strips: Iterable[Strip]) -> None:
    """What the boxes mean, those that occur."""
    cells = [cell for strip in strips for cell in strip.cells]
    kinds, bits = {cell.kind for cell in cells}, {bit_of(cell) for cell in cells}
    x, y = MARGIN, drawing.bottom + 18
    items = [(WORDS[kind][1], "", text) for kind, text in MEANINGS.items() if kind in kinds]
    items += [("protected", PROTECTED, "protected: the bit is set")] * (PROTECTED in bits)
    items += [("written", WRITTEN, "no bit: WRITTEN")] * (WRITTEN in bits)
    for kind, letter, text in items:
        width = 30 + 7 * len(text)
        if x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + 20
        drawing.box(x, y, 18, 14, f"box {kind}")
        if letter:
            drawing.text(x + 9, y + 11, letter, "mid bit")
        drawing.text(x + 24, y + 11, text, "dim")
        x += width


# --- figures ----------------------------------------------------------------------------------------------------------


def film(name: str, steps: Sequence[str], about: str, *, only: Sequence[str] = ()) -> Drawing:
    """A story as a film: one row a step, words to the left, page tables to the right.

    Args:
        name: of the story.
        steps: those to show.
        about: in words, for those who cannot see it.
        only: the names of the memory to show; all by default.
    """
    story = find_story(name)
    scenes = [scene for scene in story.play(story.stage()) if scene.step.name in steps]
    drawing = Drawing(story.title, about)
    for scene in scenes:
        shown = [strip for strip in scene.strips if not only or strip.name in only]
        draw_scene(drawing, scene, shown)
    draw_legend(drawing, (strip for scene in scenes for strip in scene.strips if not only or strip.name in only))
    return drawing


def draw_scene(drawing: Drawing, scene: Scene, strips: Sequence[Strip]) -> None:
    top = drawing.bottom + 16
    y = top + 14
    for strip in strips:
        middles = draw_strip(drawing, strip, FILM, y, WIDTH - MARGIN - FILM)
        if len(strips) > 1:
            drawing.text(middles[-1] + CELL // 2 + 10, y + 22, strip.name)
        y += BOX + BAR + 18
    drawing.text(MARGIN, top + 12, scene.step.title, "title")
    position = top + 30
    for operation in scene.operations:
        for index, line in enumerate(textwrap.wrap(operation, 46)):
            drawing.text(MARGIN + 12 * (index > 0), position, line, "code")
            position += 15


def page_table() -> Drawing:
    """Pages, entries, and what the entries point at."""
    stage = Stage("6.18")
    memory = stage.map(8, "memory")
    memory.write(1, 3, 0)
    memory.read(2, 6)
    uffd = stage.userfaultfd()
    memory.register(uffd)
    memory.protect(uffd)
    memory.write(1)
    memory.swap_out(3, 4)
    memory.advise("dontneed", 7, 8)
    [strip] = stage.scene(Step("", "", "")).strips
    drawing = Drawing(
        "A page table",
        "Eight pages; the page table entry of each; and what it names: a frame, the page of zeros, a place in swap.",
    )
    left, cell = MARGIN + 88, (WIDTH - 2 * MARGIN - 88) // 8
    for y, words, kind in ((40, "addresses", "title"), (114, "page table", "title"), (137, "the bit", "dim")):
        drawing.text(MARGIN, y, words, kind)
    targets = _targets(strip)
    room = 8 * cell // len(targets)
    at = {target: left + room * index + room // 2 for index, target in enumerate(targets)}
    for index, entry in enumerate(strip.cells):
        middle = left + index * cell + cell // 2
        drawing.box(left + index * cell, 22, cell, 28, "box")
        drawing.text(middle, 40, f"page {index}", "mid")
        drawing.link(middle, 50, middle, 92)
        draw_entry(drawing, entry, left + index * cell, 92, cell)
        if _target(entry) in at:
            drawing.link(middle, 92 + BOX + BAR, at[_target(entry)], 214)
    drawing.text(MARGIN, 234, "it names", "title")
    for target, x in at.items():
        drawing.box(x - 62, 214, 124, 32, f"box {targets[target]}")
        drawing.text(x, 234, target, "mid")
    draw_legend(drawing, [strip])
    return drawing


def _target(entry: Cell) -> str:
    """What an entry names, or "" for nothing."""
    if entry.frame is not None:
        return f"frame {entry.frame}"
    return {"zero": "the page of zeros", "swap": "a place in swap"}.get(entry.kind, "")


def _targets(strip: Strip) -> dict[str, str]:
    """All that the entries name, frames first and by number, with the class of its box."""
    named = sorted(
        (cell.kind in ("zero", "swap"), cell.kind == "swap", _target(cell), WORDS[cell.kind][1]) for cell in strip.cells
    )
    return {target: kind for *_, target, kind in named if target}


def fork() -> Drawing:
    """Two page tables and the frames between them, before and after each copied a page."""
    story = find_story("fork")
    scenes = {scene.step.name: scene for scene in story.play(story.stage())}
    drawing = Drawing(
        story.title,
        "After fork both page tables name the same six frames. After the parent wrote to page 2 and the child to page "
        "3, each has one frame of its own.",
    )
    for name, title in (
        ("fork", "After fork"),
        ("child-writes", "After the parent wrote to page 2, the child to page 3"),
    ):
        _draw_fork(drawing, scenes[name].strips, title)
    draw_legend(drawing, (strip for name in ("fork", "child-writes") for strip in scenes[name].strips))
    return drawing


def _draw_fork(drawing: Drawing, strips: Sequence[Strip], title: str) -> None:
    top = drawing.bottom + 24
    drawing.text(MARGIN, top, title, "title")
    left, room = 140, WIDTH - MARGIN - 140
    frames = sorted({cell.frame for strip in strips for cell in strip.cells if cell.frame is not None})
    spacing = room // len(frames)
    at = {frame: left + spacing * index + spacing // 2 for index, frame in enumerate(frames)}
    y = top + 34
    shift = (room - CELL * strips[0].pages) // 2
    for strip, row in zip(strips, (y, y + 196), strict=True):
        drawing.text(MARGIN, row + 22, strip.name, "title")
        middles = draw_strip(drawing, strip, left + shift, row, room)
        for cell, middle in zip(strip.cells, middles, strict=True):
            if cell.frame is not None:
                above = row == y
                ends = (row + BOX + BAR, y + 104) if above else (row - 16, y + 132)
                drawing.link(middle, ends[0], at[cell.frame], ends[1])
    drawing.text(MARGIN, y + 122, "memory", "title")
    for frame, x in at.items():
        drawing.box(x - 32, y + 104, 64, 28, "box own")
        drawing.text(x, y + 122, f"frame {frame}", "mid")


def figures() -> Iterator[tuple[str, Drawing]]:
    """Every figure by the name of its file."""
    yield "page-table", page_table()
    steps = ("first-write", "read-hole", "register", "protect", "read-marker", "write", "take")
    yield "tracking", film("tracking", steps, f"The page table of eight pages after each of {len(steps)} steps.")
    yield (
        "memory",
        film(
            "memory",
            ("start", "dontneed", "swap-out", "swap-in", "write-swapped", "guard", "take"),
            "A page given back becomes WRITTEN; pages keep their bit in swap; what changed is found at the end: "
            f"{page_words([0, 1, 3, 6])}.",
        ),
    )
    yield "fork", fork()
    yield (
        "huge",
        film(
            "huge",
            ("first-write", "protect", "write", "take"),
            "One entry for 512 pages, protected as a whole, becomes 512 entries when page 7 is written to.",
        ),
    )
    yield (
        "files",
        film(
            "files",
            ("tracked", "elsewhere", "punch"),
            "A write through another mapping, and a hole punched into the file, leave the markers of the tracked "
            "mapping as they are.",
            only=("tracked", "elsewhere"),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "figures", help="the folder to write to")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in figures():
        path = folder / f"{name}.svg"
        path.write_bytes(drawing.svg().encode())
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
