"""How the file of a recording comes to be: whole from the first moment, readable by its owner only, over nobody else.

A database in WAL mode must not be renamed while it is open (its ``-wal`` is found by name). So the file is made and
closed under a temporary name, linked to its own, and then opened for writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
from typing import TYPE_CHECKING

from ..database import file_uri
from ..errors import AccessDenied, AlreadyExists, InvalidArgument, PagescanError
from .owner import is_running, own_identity
from .schema import APPLICATION_ID, TABLES, info_rows, read_info

if TYPE_CHECKING:
    from pathlib import Path

    from .model import RecordingInfo

#: What SQLite puts beside a database.
COMPANIONS = ("-wal", "-shm", "-journal")


def create_file(path: Path, info: RecordingInfo, *, force: bool) -> None:
    """A recording without samples. Raises AlreadyExists, AccessDenied, InvalidArgument (no such folder)."""
    _check_free(path, force)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _fill(temporary, info)
        _give_name(temporary, path, force)
    except (OSError, sqlite3.Error) as error:
        raise write_error(path, error) from error
    finally:
        for name in ("", *COMPANIONS):
            _with_suffix(temporary, name).unlink(missing_ok=True)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The connection of the writer: WAL mode, transactions begun by hand."""
    uri = file_uri(path.absolute(), "mode=rw")
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise write_error(path, error) from error
    return connection


def write_error(path: Path, error: Exception) -> PagescanError:
    """The typed error for a file that cannot be written."""
    if isinstance(error, PagescanError):
        return error
    number = getattr(error, "errno", None)
    code = getattr(error, "sqlite_errorcode", None)
    if number == errno.ENOSPC or code == sqlite3.SQLITE_FULL:
        return PagescanError(
            f"cannot write {path}: no space is left there", hint=f"df -h {path.parent}", errno=errno.ENOSPC
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = os.strerror(number)
        return AccessDenied(f"cannot write {path}: {why}", hint="give a file in a folder of your own", errno=number)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return InvalidArgument(
            f"cannot write {path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}", errno=number
        )
    return PagescanError(f"cannot write {path}: {error}", errno=number)


def _check_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder, not a file to record to", hint=f"use {path / 'recording.pagescan'}")
    if not os.path.lexists(path):
        return
    if not force:
        raise _taken(path)
    if _written_now(path):
        raise AlreadyExists(
            f"{path} is a recording that another process is still writing", hint="stop it, or use another file"
        )


def _taken(path: Path) -> AlreadyExists:
    return AlreadyExists(
        f"{path} exists", hint="use another file, or overwrite it with force=True (--force)", errno=errno.EEXIST
    )


def _written_now(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(file_uri(path.absolute(), "mode=ro"), uri=True)) as connection:
            if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                return False
            _, writer = read_info(connection)
            ended = connection.execute("SELECT count(*) FROM ending").fetchone() != (0,)
    except (sqlite3.Error, KeyError, ValueError):
        return False
    return not ended and is_running(writer) is True


def _fill(path: Path, info: RecordingInfo) -> None:
    with contextlib.closing(sqlite3.connect(file_uri(path.absolute(), "mode=rw"), uri=True)) as connection, connection:
        connection.executescript(TABLES)
        connection.executemany("INSERT INTO info VALUES (?, ?)", info_rows(info, own_identity()))


def _give_name(temporary: Path, path: Path, force: bool) -> None:
    if force:
        # A WAL left behind by the file of that name would be taken for this one's.
        for name in COMPANIONS:
            _with_suffix(path, name).unlink(missing_ok=True)
        os.replace(temporary, path)
        return
    if any(os.path.lexists(_with_suffix(path, name)) for name in COMPANIONS):
        raise AlreadyExists(
            f"{path}-wal, -shm or -journal is left from a database of that name", hint="use another file, or force=True"
        )
    try:
        os.link(temporary, path)  # unlike rename, it fails if the name has been taken meanwhile
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError:
        # A file system without hard links (FAT, some network ones): the check has to do.
        if os.path.lexists(path):
            raise _taken(path) from None
        os.rename(temporary, path)


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
