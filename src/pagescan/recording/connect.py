"""Opens the file of a recording for reading, and makes sure that it is one."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from typing import TYPE_CHECKING

from ..database import file_uri
from ..errors import AccessDenied, DataCorrupt, InvalidArgument
from .schema import APPLICATION_ID, FORMAT, explained

if TYPE_CHECKING:
    from pathlib import Path

_MARKS = ("application_id", "user_version")


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection to what is surely a recording. Errors as :meth:`Recording.open`."""
    _check_readable(path)
    try:
        return _checked(path, "mode=ro")
    except sqlite3.OperationalError as error:
        # WAL mode needs to write beside the file. Without a WAL there is nothing to write for.
        if _size(f"{path}-wal"):
            raise AccessDenied(
                f"the recording {path} was not closed, and to read its -wal one has to write to {path.parent}: {error}",
                hint=f"cp {path} {path}-wal ~/  # and open the copy",
            ) from error
    with explained(path):
        return _checked(path, "immutable=1")


def _checked(path: Path, options: str) -> sqlite3.Connection:
    # Another thread may look than the one that opened: a live view reads in the background.
    uri = file_uri(path.absolute(), options)
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _check_format(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_readable(path: Path) -> None:
    # Never by opening it: closing any descriptor of a file drops the locks that SQLite holds on it in this process.
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise InvalidArgument(f"there is no recording {path}: {error.strerror}", errno=error.errno) from error
    if not regular:
        raise InvalidArgument(f"{path} is no regular file, and so no recording")
    if not os.access(path, os.R_OK):
        raise AccessDenied(
            f"cannot read {path}: it belongs to somebody else",
            hint=f"sudo chown $USER {path}",
            errno=errno.EACCES,
        )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _check_format(path: Path, connection: sqlite3.Connection) -> None:
    try:
        application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise DataCorrupt(f"{path} is no recording: {error}") from error
    if application != APPLICATION_ID:
        raise DataCorrupt(f"{path} is no recording of pagescan")
    if version != FORMAT:
        raise InvalidArgument(
            f"{path} has format {version}, and this pagescan reads format {FORMAT}", hint="pip install -U pagescan"
        )
