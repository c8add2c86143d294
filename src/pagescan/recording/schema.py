"""The tables of a recording, and its values as SQLite keeps them. Defined by ``docs/formats/recording.md``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from ..abi import Mapping
from ..errors import DataCorrupt, InvalidArgument
from ..trackers.written import Quality
from .model import MappingSpan, RecordingInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATION_ID = 0x50675363  # "PgSc"
FORMAT = 1

TABLES = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE info (name TEXT PRIMARY KEY, value);
CREATE TABLE sample (
    number INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL,
    pause_ns INTEGER NOT NULL, quality INTEGER NOT NULL, reason TEXT NOT NULL, resident_pages INTEGER,
    regions INTEGER NOT NULL, pages INTEGER NOT NULL, unknown INTEGER NOT NULL,
    gaps BLOB NOT NULL, lengths BLOB NOT NULL, categories BLOB NOT NULL
);
CREATE TABLE mapping (
    id INTEGER PRIMARY KEY, appeared INTEGER NOT NULL, vanished INTEGER, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    perms TEXT NOT NULL, offset INTEGER NOT NULL, device TEXT NOT NULL, inode INTEGER NOT NULL, name BLOB NOT NULL,
    page_size INTEGER NOT NULL
);
CREATE TABLE ending (reason TEXT NOT NULL, detail TEXT NOT NULL, time_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL);
"""

#: In the order of their numbers in the file.
QUALITIES = (Quality.EXACT, Quality.SUPERSET, Quality.LOST)


def signed(value: int) -> int:
    """An unsigned 64-bit number as the signed one with the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    """The reverse of :func:`signed`."""
    return value & ((1 << 64) - 1)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors while reading, as DataCorrupt that names the file. A row of wrong types counts as damage."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise DataCorrupt(f"the recording {path} cannot be read: {error}") from error
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        if isinstance(error, DataCorrupt | InvalidArgument):
            raise
        raise DataCorrupt(f"the recording {path} is damaged: a row makes no sense ({error})") from error


# --- info ------------------------------------------------------------------------------------------------------------


def info_rows(info: RecordingInfo, writer: str | None) -> list[tuple[str, Any]]:
    """The rows of the table info."""
    values = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    values["command_line"] = b"".join(os.fsencode(word) + b"\0" for word in info.command_line)
    return [*values.items(), ("writer", writer)]


def read_info(connection: sqlite3.Connection) -> tuple[RecordingInfo, str | None]:
    """What was recorded, and who writes. Raises KeyError for a row that is missing."""
    rows = dict(connection.execute("SELECT name, value FROM info"))
    values = {field.name: rows[field.name] for field in dataclasses.fields(RecordingInfo)}
    values["command_line"] = tuple(os.fsdecode(word) for word in values["command_line"].split(b"\0")[:-1])
    page_size = values["page_size"]
    if page_size < 1 or page_size & (page_size - 1):
        raise ValueError(f"a page size of {page_size} bytes")
    return RecordingInfo(**values), rows.get("writer")


# --- mappings --------------------------------------------------------------------------------------------------------

INSERT_MAPPING = "INSERT INTO mapping VALUES (NULL, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT_MAPPINGS = """SELECT id, appeared, vanished, start, "end", perms, offset, device, inode, name, page_size
    FROM mapping WHERE id > :known OR vanished >= :seen ORDER BY id"""


def mapping_row(mapping: Mapping, appeared: int) -> tuple[Any, ...]:
    """The parameters of :data:`INSERT_MAPPING`."""
    place = (signed(mapping.start), signed(mapping.end), mapping.perms, signed(mapping.offset))
    return appeared, *place, mapping.device, signed(mapping.inode), os.fsencode(mapping.name), mapping.page_size


def mapping_span(row: tuple[Any, ...]) -> MappingSpan:
    """A row of :data:`SELECT_MAPPINGS` without its id."""
    appeared, vanished, start, end, perms, offset, device, inode, name, page_size = row
    mapping = Mapping(
        start=unsigned(start),
        end=unsigned(end),
        perms=perms,
        offset=unsigned(offset),
        device=device,
        inode=unsigned(inode),
        name=os.fsdecode(name),
        page_size=page_size,
    )
    return MappingSpan(mapping, appeared, vanished)
