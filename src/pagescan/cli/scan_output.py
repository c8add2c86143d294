"""How ``pagescan scan`` shows its answer: a table, lines, JSON or CSV."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..query import ALL_CATEGORIES, Category, category_names
from ..units import format_count, format_size
from .by_mapping import Row, pieces, rows_of
from .output import cut, printable, rich_console, short_size, width_of, write_csv, write_json
from .scan import query_document

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from ..abi import Mapping
    from .scan import Answer

__all__ = ["print_csv", "print_json", "print_mappings", "print_regions", "rich_console"]

SCHEMA_VERSION = 1
#: Narrower than this, a mapping's end address is left out and paths are cut to the file's name.
_WIDE = 112
#: The categories that have a column, and its heading.
_COLUMNS = (
    (Category.PRESENT, "RESIDENT"),
    (Category.WRITTEN, "WRITTEN"),
    (Category.SWAPPED, "SWAPPED"),
    (Category.FILE, "FILE"),
    (Category.HUGE, "HUGE"),
    (Category.PFNZERO, "ZERO"),
)
#: What stands before the categories in a line of CSV: the fields of a mapping in the JSON document.
_FIELDS = (
    "start",
    "end",
    "size",
    "permissions",
    "name",
    "offset",
    "device",
    "inode",
    "page_size",
    "tracked",
    "matched",
)


def _rows(answer: Answer) -> list[Row]:
    asked = Category(answer.query.returned) & ~answer.regions.unknown
    return rows_of(answer.mappings, answer.regions, answer.tracked, asked)


# --- JSON and CSV -----------------------------------------------------------------------------------------------------


def print_json(answer: Answer, options: argparse.Namespace) -> None:
    """One document with the mappings, or with the regions."""
    content: dict[str, Any] = {
        "target": {"pid": answer.pid, "label": answer.label},
        "page_size": answer.page_size,
        "query": query_document(answer.query, options),
        "unknown_categories": category_names(answer.regions.unknown),
    }
    if options.regions:
        content["regions"] = [_region(*piece) for piece in pieces(answer.regions, answer.mappings)]
        content["totals"] = {"pages": answer.regions.page_count, "bytes": answer.regions.byte_count}
    else:
        rows = _rows(answer)
        content["mappings"] = [_mapping(row) for row in rows]
        content["totals"] = {
            "mappings": len(rows),
            "size": sum(row.mapping.size for row in rows),
            "matched": sum(row.matched for row in rows),
            "categories": {str(category.name).lower(): _total(rows, category) for category in Category},
        }
    write_json("scan", SCHEMA_VERSION, content)


def _region(start: int, end: int, categories: Category, mapping: Mapping | None) -> dict[str, Any]:
    return {
        "start": f"{start:#x}",
        "end": f"{end:#x}",
        "size": end - start,
        "categories": category_names(categories),
        "permissions": mapping.perms if mapping else None,
        "name": mapping.name if mapping else None,
    }


def _mapping(row: Row) -> dict[str, Any]:
    mapping = row.mapping
    return {
        "start": f"{mapping.start:#x}",
        "end": f"{mapping.end:#x}",
        "size": mapping.size,
        "permissions": mapping.perms,
        "name": mapping.name,
        "offset": mapping.offset,
        "device": mapping.device,
        "inode": mapping.inode,
        "page_size": mapping.page_size,
        "tracked": row.tracked,
        "matched": row.matched,
        "categories": {str(category.name).lower(): row.counts[category] for category in Category},
    }


def _total(rows: Iterable[Row], category: Category) -> int | None:
    """The sum over the mappings of which it is known; None if it is known of none."""
    counts = [count for row in rows if (count := row.counts[category]) is not None]
    return sum(counts) if counts else None


def print_csv(answer: Answer, options: argparse.Namespace) -> None:
    """The same figures as the JSON document, one line a mapping or a region."""
    if options.regions:
        records = [_region(*piece) for piece in pieces(answer.regions, answer.mappings)]
        header = ["start", "end", "size", "categories", "permissions", "name"]
        write_csv(header, ([*_joined(record).values()] for record in records))
        return
    names = [str(category.name).lower() for category in Category]
    flat = [_mapping(row) for row in _rows(answer)]
    write_csv([*_FIELDS, *names], (_flattened(record, names) for record in flat))


def _joined(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"categories": "|".join(record["categories"])}


def _flattened(record: dict[str, Any], names: Sequence[str]) -> list[Any]:
    values = record | {"tracked": int(record["tracked"])}
    return [*(values[name] for name in _FIELDS), *(record["categories"][name] for name in names)]


# --- for a reader -----------------------------------------------------------------------------------------------------


def print_regions(answer: Answer) -> None:
    """One line for each run of pages in the same state within one mapping."""
    print(f"{'ADDRESS':<25} {'SIZE':>5}  CATEGORIES, MAPPING")
    count = 0
    for start, end, categories, mapping in pieces(answer.regions, answer.mappings):
        count += 1
        states = ",".join(category_names(categories)) or "-"
        name = f"  {_name(mapping, wide=True)}" if mapping else ""
        print(f"{start:012x}-{end:012x} {short_size(end - start):>5}  {states}{name}")
    regions = answer.regions
    pages = format_count(regions.page_count, "page")
    print(f"{answer.label}: {format_count(count, 'region')}, {pages}, {format_size(regions.byte_count)}")


def _name(mapping: Mapping, *, wide: bool) -> str:
    if not mapping.name:
        return "(anonymous)"
    return printable(mapping.name if wide or not mapping.name.startswith("/") else PurePath(mapping.name).name)


def print_mappings(answer: Answer, options: argparse.Namespace, console: Console) -> None:
    """The table: one line a mapping, a line of totals, and what the reader has to know."""
    rows = _rows(answer)
    shown = [row for row in rows if options.all or (row.matched if answer.filtered else row.has_content)]
    wide = width_of(sys.stdout) >= _WIDE
    columns = [column for column in _COLUMNS if wide or _total(shown, column[0])]
    with console.capture() as captured:
        console.print(_table(answer, shown, columns, wide), soft_wrap=False)
    for line in captured.get().splitlines():
        print(line.rstrip())
    limited = [f"stopped after {format_count(options.max_pages, 'page')} (--max-pages)"] if options.max_pages else []
    for line in [*_footnotes(answer, rows, shown, columns), *limited]:
        console.print(line, style="dim")


def _table(answer: Answer, rows: Sequence[Row], columns: Sequence[tuple[Category, str]], wide: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    matched = ["MATCH"] if answer.filtered else []
    head = ["ADDRESS" if wide else "START", "PERM", "SIZE", *matched, *(heading for _, heading in columns), "MAPPING"]
    body = [[*_cells(row, answer.filtered, columns, wide), _name(row.mapping, wide=wide)] for row in rows]
    foot = ["total", "", short_size(sum(row.mapping.size for row in rows))]
    foot += [short_size(sum(row.matched for row in rows))] if answer.filtered else []
    foot += [*(_cell(_total(rows, category)) for category, _ in columns), ""]
    widths = [max(map(len, column)) for column in zip(head, foot, *body, strict=True)]
    # Only the names give way where the terminal is narrow.
    room = max(len(head[-1]), width_of(sys.stdout) - sum(widths[:-1]) - len(widths) + 1)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_footer=True, header_style="bold")
    for index, (heading, footer) in enumerate(zip(head, foot, strict=True)):
        left = index < 2 or index == len(head) - 1
        table.add_column(heading, footer, justify="left" if left else "right", no_wrap=True)
    for cells in body:
        table.add_row(*map(Text, cells[:-1]), Text(cut(cells[-1], room)))
    return table


def _cells(row: Row, filtered: bool, columns: Sequence[tuple[Category, str]], wide: bool) -> Iterator[str]:
    mapping = row.mapping
    yield f"{mapping.start:012x}-{mapping.end:012x}" if wide else f"{mapping.start:012x}"
    yield mapping.perms
    yield short_size(mapping.size)
    if filtered:
        yield short_size(row.matched)
    yield from (_cell(row.counts[category]) for category, _ in columns)


def _cell(count: int | None) -> str:
    return "-" if count is None else short_size(count)


def _footnotes(
    answer: Answer, rows: Sequence[Row], shown: Sequence[Row], columns: Sequence[tuple[Category, str]]
) -> Iterator[str]:
    rest = "no page of the rest matches" if answer.filtered else "the rest have no page"
    count = f"{len(shown):,} of {format_count(len(rows), 'mapping')} shown"
    yield f"{answer.label}: {count}" + ("" if len(shown) == len(rows) else f"; {rest} (--all)")
    missing = [heading for category, heading in _COLUMNS if (category, heading) not in columns]
    nowhere = [heading for category, heading in _COLUMNS if heading in missing and _total(shown, category) == 0]
    if nowhere:
        yield f"0 everywhere, and left out for want of room: {', '.join(nowhere)}"
    if answer.query.returned & Category.WRITTEN and not any(row.tracked for row in shown):
        yield "WRITTEN is not known: none of this memory is tracked"
    elif any(not row.tracked for row in shown):
        yield "- under WRITTEN: not known, since that mapping is not tracked"
    if answer.query.returned != ALL_CATEGORIES and answer.regions.unknown:
        yield f"this kernel does not know: {', '.join(category_names(answer.regions.unknown))}"
