"""What all commands print with: JSON and CSV documents, notes, colours, names that are safe to show."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

from .. import __version__
from ..errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

_UNITS = "BKMGTPE"
#: Wider than any table: for a pipe nothing is cut off.
_UNLIMITED = 1 << 16


def note(text: str) -> None:
    """A remark for the reader, on stderr."""
    print(f"pagescan: {text}", file=sys.stderr)


def note_engine(engine: str, why: str) -> None:
    """Say so where a process could not be tracked in the best way (docs/engines.md)."""
    if engine != "pagemap-scan":
        note(f"tracked by the engine {engine}, at a price: {why}")


def write_json(schema: str, version: int, content: dict[str, Any]) -> None:
    """One JSON document on stdout: its schema, the schema's version, who wrote it, and the content."""
    head = {"schema": f"pagescan.{schema}", "version": version, "pagescan": __version__}
    json.dump(head | content, sys.stdout, indent=2)
    sys.stdout.write("\n")


def write_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """CSV (RFC 4180) on stdout; None is an empty field. Bytes of names that are no UTF-8 pass through unchanged."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")
    writer = csv.writer(sys.stdout)
    writer.writerow(header)
    writer.writerows(rows)


def use_colour(stream: TextIO) -> bool:
    """Whether to colour: a terminal that can, and nobody said NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int:
    """Columns to write in: those of the terminal, or COLUMNS; no limit for a pipe or a file."""
    if stream.isatty() or os.environ.get("COLUMNS"):
        return max(40, shutil.get_terminal_size().columns)
    return _UNLIMITED


def rich_console() -> Console:
    """A rich console on stdout. Raises MissingExtra without rich."""
    try:
        from rich.console import Console
    except ImportError:
        raise MissingExtra(
            "tables need the package rich, which is not installed; --json and --csv work without it",
            hint="pip install 'pagescan[cli]'",
        ) from None
    return Console(
        file=sys.stdout,
        width=width_of(sys.stdout),
        no_color=not use_colour(sys.stdout),
        highlight=False,
        markup=False,
        emoji=False,
    )


def printable(name: str) -> str:
    """A file's name fit for a terminal: what could move the cursor, or cannot be encoded, is escaped."""
    shown = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
    return encodable(shown)


def encodable(text: str) -> str:
    """The text with what stdout's encoding lacks escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def short_size(size: int) -> str:
    """A size in at most five characters, units of 1024: ``0``, ``4K``, ``1.5M``, ``132M``."""
    number, unit = float(size), 0
    while number >= 1024 and unit + 1 < len(_UNITS):
        number, unit = number / 1024, unit + 1
    if unit == 0:
        return str(size)
    text = f"{number:.0f}" if number == int(number) or number >= 9.95 else f"{number:.1f}"
    # 1023.9K would print as 1024K.
    return f"1{_UNITS[unit + 1]}" if text == "1024" and unit + 1 < len(_UNITS) else text + _UNITS[unit]


def cut(name: str, width: int) -> str:
    """A name in at most ``width`` characters; what is left out is its beginning, since the end of a path tells more."""
    return name if len(name) <= width else "~" + name[len(name) - width + 1 :]
