"""The default store: one SQLite file. Its tables are defined by ``docs/formats/store.md``."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, NoReturn

from ..database import file_uri
from ..errors import AccessDenied, Closed, DataCorrupt, InvalidArgument, PagescanError, VersionConflict
from .base import FORMAT, PackInfo, other_format

try:
    from ..kernel.files import start_writing
except ImportError:  # no Linux

    def start_writing(descriptor: int) -> None:
        """A hint that nobody takes here."""


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .base import Piece

APPLICATION_ID = 0x50675374  # "PgSt"
#: How long to wait for another writer, in seconds.
PATIENCE = 60.0
#: Bytes in the write-ahead log from which on it is folded into the file after a commit.
_LOG_LIMIT = 64 << 20

#: Bytes of a page of the database. SQLite's work on a large commit halves from 8 to 32 KiB.
_PAGE_SIZE = 32768
#: The least that a commit puts into the log: five pages.
_LEAST_LOGGED = 5 * _PAGE_SIZE
#: Bytes from which on a part of a pack is long enough: each takes several calls, and waits for the interpreter lock.
_PART = 1 << 20
#: KiB of the database that SQLite keeps in memory: what is more goes into the log while a commit is still at work.
_CACHE_KIB = 2000
#: Bytes after which the disk is told to begin with what is in the log.
_WRITE_EARLY = 2 << 20

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
        InvalidArgument: there is no such file (``create=False``) or folder, or it has another format.
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
        self._log = _Log(path)
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
        sql.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
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
            raise other_format(str(self.path), str(version))
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
        self._log.close()
        # SQLite must not be touched in a child: closing there would drop the locks that the parent holds.
        if connection is not None and os.getpid() == self._pid:
            connection.close()

    def check(self) -> list[str]:
        try:
            rows = self._sql.execute("PRAGMA integrity_check").fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
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
                self._logged += _LEAST_LOGGED
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

    def put_pack(self, name: str, parts: Iterable[Piece]) -> int:
        with self._explained():
            row = _number(self._sql.execute("SELECT coalesce(max(id), 0) + 1 FROM pack").fetchone()[0])
            size = 0
            for pieces in _gathered(parts):
                size += self._put_part(row << 32 | size, pieces)
            # Last: what is written to again after it went into the log has the log read and summed once more.
            self._sql.execute("INSERT INTO pack VALUES (?, ?, ?, ?)", (row, name, size, time.time_ns()))
        return size

    def _put_part(self, place: int, pieces: list[Piece]) -> int:
        # Room first, then the bytes straight into it: as a value of the statement they would be copied three times.
        size = sum(map(len, pieces))
        self._sql.execute("INSERT INTO part VALUES (?, zeroblob(?))", (place, size))
        with self._sql.blobopen("part", "data", place) as blob:
            for piece in pieces:
                blob.write(piece)
        self._logged += size
        self._log.grown(size)
        return size

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        with self._explained(), self._one_state():
            base = self._pack_id(name) << 32
            rows = self._sql.execute(
                "SELECT id, typeof(data), length(data) FROM part WHERE id < ? AND id >= "
                "coalesce((SELECT max(id) FROM part WHERE id BETWEEN ? AND ?), ?) ORDER BY id",
                (base + offset + length, base, base + offset, base),
            ).fetchall()
            pieces, at, end = [], base + offset, base + offset + length
            for place, kind, size in rows:
                if kind != "blob":
                    _wrong(kind, "bytes")
                if not place <= at <= place + size:  # a part is missing
                    break
                with self._sql.blobopen("part", "data", place, readonly=True) as blob:
                    blob.seek(at - place)
                    pieces.append(blob.read(end - at))
                at += len(pieces[-1])
        return b"".join(pieces)

    @contextlib.contextmanager
    def _one_state(self) -> Iterator[None]:
        """What is read inside is of one state of the file, whoever else commits."""
        if self._sql.in_transaction:
            yield
            return
        self._sql.execute("BEGIN")
        try:
            yield
        finally:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")

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
        except (sqlite3.Error, UnicodeDecodeError) as error:  # what SQLite quotes of a damaged file may be no text
            raise _explain(self.path, error) from error


class _Log:
    """The log beside the file, which the disk is told to write early: so the wait at the end of a commit is short."""

    def __init__(self, path: Path):
        self._path = f"{os.path.realpath(path)}-wal"
        self._descriptor: int | None = None
        self._waiting = 0

    def grown(self, size: int) -> None:
        """So many bytes were put into it; some of them SQLite may still hold back."""
        self._waiting += size
        if self._waiting >= _WRITE_EARLY:
            self._waiting = 0
            # Only a hint: a log that cannot be opened is none the worse.
            with contextlib.suppress(OSError):
                if self._descriptor is None:
                    self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                start_writing(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _gathered(parts: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The parts in groups that are long enough."""
    group: list[Piece] = []
    size = 0
    for part in parts:
        group.append(part)
        size += len(part)
        if size >= _PART:
            yield group
            group, size = [], 0
    if size:
        yield group


# Flipped bits can make what a column holds look like something else.


def _blob(value: object) -> bytes:
    return value if isinstance(value, bytes) else _wrong(type(value).__name__, "bytes")


def _number(value: object) -> int:
    return value if isinstance(value, int) else _wrong(type(value).__name__, "a number")


def _text(value: object) -> str:
    return value if isinstance(value, str) else _wrong(type(value).__name__, "text")


def _wrong(found: str, wanted: str) -> NoReturn:
    raise DataCorrupt(f"the database is damaged: a row holds {found} where {wanted} should be")


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
        file_uri(path.absolute(), options),
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
