"""The default store: one SQLite file. Its tables are defined by ``docs/formats/store.md``."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, NoReturn

from ..errors import AccessDenied, Closed, DataCorrupt, InvalidArgument, PagescanError, VersionConflict
from .base import PackInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

APPLICATION_ID = 0x50675374  # "PgSt"
FORMAT = 1
#: How long to wait for another writer, in seconds.
PATIENCE = 60.0
#: Bytes in the write-ahead log from which on it is folded into the file after a commit.
_LOG_LIMIT = 64 << 20

_PAGE_SIZE = 8192  # frames fill pages of this size to 99 %, with half the calls that 4096 would need

# part.id: the pack's id in the upper 31 bits, the offset of the part's first byte in the lower 32.
_TABLES = f"""
CREATE TABLE manifest (series TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (series, version));
CREATE TABLE pack (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
    created_ns INTEGER NOT NULL);
CREATE TABLE part (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT}
"""


class LocalBackend:
    """Packs and manifests in one SQLite file, in WAL mode; a commit is on the disk when it returns.

    Where the file or its folder cannot be written to, it is opened for reading only.

    Raises:
        InvalidArgument: there is no such file (``create=False``) or folder, or it has a newer format.
        DataCorrupt: the file is no store.
        AccessDenied: it belongs to somebody else.
    """

    atomic = True
    gap = 0
    at_once = 1

    def __init__(self, path: Path, *, create: bool = True):
        self.path = path
        self.url = str(path)
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        #: Bytes that this process has put into the log since it was last folded in.
        self._logged = _LOG_LIMIT
        read_only = _prepare_file(path, create)
        with self._explained():
            self._connection = _connect(path, read_only=read_only)
        try:
            with self._explained():
                self._set_up(read_only=read_only)
        except BaseException:
            self.close()
            raise

    # Itself

    def _set_up(self, *, read_only: bool) -> None:
        sql = self._sql
        found = self._marks_are_right()
        if read_only:
            if not found:
                raise AccessDenied(f"{self.path} is empty, and cannot be written to", hint="give another file")
            return
        if not found:
            # Of an empty file alone: it has no table, and so nothing that could be spoilt.
            sql.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA wal_autocheckpoint = 0")
        sql.execute("PRAGMA secure_delete = FAST")
        if not found:
            with self.batch():
                if not self._marks_are_right():  # another process may have been faster
                    for statement in _TABLES.split(";"):
                        sql.execute(statement)

    def _marks_are_right(self) -> bool:
        """Whether this is a store; False for an empty file. Raises for anything else."""
        application, version, tables = (
            self._sql.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
        )
        if (application, version, tables) == (0, 0, 0):
            return False
        if application != APPLICATION_ID:
            raise DataCorrupt(f"{self.path} is no store of pagescan")
        if version != FORMAT:
            raise InvalidArgument(
                f"{self.path} has format {version}, and this pagescan reads format {FORMAT}",
                hint="pip install -U pagescan",
            )
        return True

    @property
    def _sql(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Closed(f"the store {self.url} is closed", hint="call pagescan.open_store() again")
        if os.getpid() != self._pid:
            raise Closed(
                f"the store {self.url} was opened before this process was forked", hint="open it again in the child"
            )
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        # SQLite must not be touched in a child: closing there would drop the locks that the parent holds.
        if connection is not None and os.getpid() == self._pid:
            connection.close()

    def check(self) -> list[str]:
        try:
            rows = self._sql.execute("PRAGMA integrity_check").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [text for (text,) in rows if text != "ok"]

    def now_ns(self) -> int:
        return time.time_ns()

    def reclaim(self, before_ns: int) -> None:
        with self._explained():
            # Not execute(): it would take one step, and each frees one page.
            self._sql.executescript("PRAGMA incremental_vacuum")
            self._fold()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        with self._explained():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise
        self._fold_if_long()

    def _fold_if_long(self) -> None:
        if self._logged > _LOG_LIMIT:
            self._fold()

    def _fold(self) -> None:
        # The log keeps its length and is written over: that is several times faster than to let it grow again. What
        # is committed is safe in it, so that it cannot be folded in now (no space, a reader) harms nothing.
        with contextlib.suppress(sqlite3.OperationalError):
            self._sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._logged = 0

    # Packs

    def put_pack(self, name: str, parts: Iterable[bytes]) -> int:
        with self._explained():
            row = self._sql.execute(
                "INSERT INTO pack (name, size, created_ns) VALUES (?, 0, ?)", (name, time.time_ns())
            ).lastrowid
            assert row is not None
            size = 0
            for part in parts:
                if part:
                    self._sql.execute("INSERT INTO part VALUES (?, ?)", (row << 32 | size, part))
                    size += len(part)
                    self._logged += len(part)
            self._sql.execute("UPDATE pack SET size = ? WHERE id = ?", (size, row))
        return size

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        with self._explained():
            row = self._pack_id(name)
            base = row << 32
            rows = self._sql.execute(
                "SELECT id, data FROM part WHERE id < ? AND id >= "
                "coalesce((SELECT max(id) FROM part WHERE id BETWEEN ? AND ?), ?) ORDER BY id",
                (base + offset + length, base, base + offset, base),
            ).fetchall()
        parts = [(_number(place), _blob(data)) for place, data in rows]
        if len(parts) == 1 and parts[0][0] == base + offset and len(parts[0][1]) == length:
            return parts[0][1]
        return _cut(parts, base, offset, length)

    def _pack_id(self, name: str) -> int:
        found = self._sql.execute("SELECT id FROM pack WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise KeyError(name)
        return _number(found[0])

    def read_packs(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for each in wanted:
            try:
                found.append(self.read_pack(*each))
            except KeyError:
                found.append(None)
        return found

    def missing_packs(self, names: Iterable[str]) -> set[str]:
        with self._explained():
            return set(names) - {name for (name,) in self._sql.execute("SELECT name FROM pack")}

    def packs(self) -> dict[str, PackInfo]:
        with self._explained():
            rows = self._sql.execute("SELECT name, size, created_ns FROM pack").fetchall()
        return {_text(name): PackInfo(_number(size), _number(created)) for name, size, created in rows}

    def delete_packs(self, names: Iterable[str]) -> None:
        with self._explained():
            for name in names:
                with contextlib.suppress(KeyError):
                    row = self._pack_id(name)
                    self._sql.execute("DELETE FROM part WHERE id >= ? AND id < ?", (row << 32, (row + 1) << 32))
                    self._sql.execute("DELETE FROM pack WHERE id = ?", (row,))

    # Manifests

    def series(self) -> list[str]:
        with self._explained():
            rows = self._sql.execute("SELECT DISTINCT series FROM manifest ORDER BY series")
            return [_text(name) for (name,) in rows]

    def versions(self, series: str) -> list[int]:
        with self._explained():
            rows = self._sql.execute("SELECT version FROM manifest WHERE series = ? ORDER BY version", (series,))
            return [_number(version) for (version,) in rows]

    def read_manifest(self, series: str, version: int) -> bytes:
        with self._explained():
            found = self._sql.execute(
                "SELECT data FROM manifest WHERE series = ? AND version = ?", (series, version)
            ).fetchone()
        if found is None:
            raise KeyError((series, version))
        return _blob(found[0])

    def create_manifest(self, series: str, version: int, data: bytes) -> None:
        with self._explained():
            try:
                self._sql.execute("INSERT INTO manifest VALUES (?, ?, ?)", (series, version, data))
            except sqlite3.IntegrityError:
                raise VersionConflict(f"version {version} of {series!r} exists already in {self.url}") from None

    def delete_manifests(self, series: str, versions: Sequence[int]) -> None:
        with self._explained():
            rows = [(series, version) for version in versions]
            self._sql.executemany("DELETE FROM manifest WHERE series = ? AND version = ?", rows)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _explain(self.path, error) from error


def _cut(parts: list[tuple[int, bytes]], base: int, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of what the parts hold; fewer if a part is missing."""
    data, at = bytearray(), offset
    for place, part in parts:
        start = place - base
        if not start <= at <= start + len(part):
            break
        data += part[at - start : at - start + length - len(data)]
        at = offset + len(data)
    return bytes(data)


# Flipped bits can make what a column holds look like something else.


def _blob(value: object) -> bytes:
    return value if isinstance(value, bytes) else _wrong(value, "bytes")


def _number(value: object) -> int:
    return value if isinstance(value, int) else _wrong(value, "a number")


def _text(value: object) -> str:
    return value if isinstance(value, str) else _wrong(value, "text")


def _wrong(value: object, wanted: str) -> NoReturn:
    raise DataCorrupt(f"the database is damaged: a row holds {type(value).__name__} where {wanted} should be")


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    options = "mode=rw"
    if read_only:
        # SQLite has to write beside a file in WAL mode even to read it; if the log is empty, there is no need to.
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise AccessDenied(
                f"the store {path} was not closed, and to read its -wal one has to be able to write there",
                hint=f"cp {path} {log} ~/  # and open the copy",
            )
        options = "immutable=1"
    # Any thread may use it: the store lets in one at a time.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=PATIENCE,
    )


def _prepare_file(path: Path, create: bool) -> bool:
    """Make sure that there is a file that may be a store; a new one is empty, and its owner's alone.

    Returns whether it can be read and not written to.
    """
    try:
        if create and not path.exists():
            # Not O_EXCL: two processes may open a new store at once.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidArgument(f"{path} is no regular file, and so no store", hint=f"use {path / 'state.pagescan'}")
    except OSError as error:
        raise _explain(path, error) from error
    if not os.access(path, os.R_OK):
        raise AccessDenied(f"cannot read {path}", hint=f"sudo chown $USER {path}", errno=errno.EACCES)
    return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def _explain(path: Path, error: Exception) -> PagescanError:
    """SQLite's and the system's errors as ours."""
    number = getattr(error, "errno", None)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if number == errno.ENOSPC or code == sqlite3.SQLITE_FULL:
        return PagescanError(
            f"cannot write {path}: no space is left there", hint=f"df -h {path.parent}", errno=errno.ENOSPC
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return PagescanError(
            f"{path} is being written by another process, for more than {PATIENCE:g} seconds", errno=errno.EBUSY
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode" in str(error):
        return DataCorrupt(f"{path} is damaged, or no store: {error}")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) or code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return AccessDenied(f"cannot write {path}: {error}", hint="give a file in a folder of your own", errno=number)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return InvalidArgument(f"there is no store {path}, and no way to make one: {os.strerror(number)}", errno=number)
    return PagescanError(f"cannot use {path}: {error}", errno=number)
