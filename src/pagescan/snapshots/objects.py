"""Stores in object storage: each pack and each manifest is an object. ``docs/formats/store.md`` defines the keys.

There is no transaction over several objects, and anybody may write at any time. What makes it safe all the same: an
object appears whole or not at all; a manifest is created under the next number only if there is none; and nothing that
somebody may still be about to read or to name is deleted before a grace period is over.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataCorrupt, InvalidArgument, VersionConflict
from .base import FORMAT, PackInfo, other_format
from .manifest import Manifest
from .object_access import open_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .base import Piece
    from .object_access import Item

_FORMATS, _PACKS, _SERIES, _DELETED = "format", "packs", "series", "deleted"
_CLOCK = "clock"
#: Of the names of series as they stand in keys: a folder of a file system takes no more.
_LONGEST = 240
#: Bytes that are read at once of a pack that is read from one end to the other.
_AHEAD = 8 << 20


class _Range(NamedTuple):
    """Bytes [start, end) of a pack."""

    name: str
    start: int
    end: int

    def covers(self, other: _Range) -> bool:
        return self.name == other.name and self.start <= other.start and other.end <= self.end


class ObjectBackend:
    """Packs and manifests as objects under one prefix.

    Raises:
        InvalidArgument: there is no store (``create=False``), no such bucket, or the format is another.
        MissingExtra: obstore is not installed.
        AccessDenied, StoreUnavailable: what the storage says.
    """

    atomic = False
    gap = 512 << 10  # what arrives in the time that one more request takes
    at_once = 4

    def __init__(self, url: str, *, create: bool = True, options: dict[str, Any] | None = None):
        self.url = url
        self._place = open_place(url, create=create, options=options or {})
        #: What was read last of a pack, and where the last answer ended.
        self._read, self._data, self._ended = _Range("", 0, 0), b"", 0
        self._check_format(create)

    def _check_format(self, create: bool) -> None:
        formats = [item.key.rpartition("/")[2] for item in self._place.items(_FORMATS)]
        if not formats:
            if not create:
                raise InvalidArgument(f"there is no store at {self.url}")
            self._place.create(f"{_FORMATS}/{FORMAT}", b"")
        elif str(FORMAT) not in formats:
            raise other_format(self.url, ", ".join(formats))

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        yield

    # Packs

    def put_pack(self, name: str, parts: Iterable[Piece]) -> int:
        return self._place.upload(f"{_PACKS}/{name}", map(bytes, parts))

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        wanted = _Range(name, offset, offset + length)
        if not self._read.covers(wanted):
            # Whoever goes on where the last read ended will go on again: one request for many.
            ahead = _AHEAD if (name, offset) == (self._read.name, self._ended) else 0
            self._data = self._place.get_range(f"{_PACKS}/{name}", offset, max(length, ahead))
            self._read = _Range(name, offset, offset + len(self._data))
        self._ended = wanted.end
        return self._data[offset - self._read.start : wanted.end - self._read.start]

    def read_packs(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        return self._place.get_ranges([(f"{_PACKS}/{name}", offset, length) for name, offset, length in wanted])

    def missing_packs(self, names: Iterable[str]) -> set[str]:
        return {_last(key) for key in self._place.absent([f"{_PACKS}/{name}" for name in names])}

    def packs(self) -> dict[str, PackInfo]:
        found = {_last(item.key): PackInfo(item.size, item.written_ns) for item in self._place.items(_PACKS)}
        for item in self._place.items(_DELETED):
            for name in self._named_by(item) & found.keys():
                found[name] = PackInfo(found[name].size, max(found[name].written_ns, item.written_ns))
        return found

    def delete_packs(self, names: Iterable[str]) -> None:
        self._place.delete([f"{_PACKS}/{name}" for name in names])

    # Manifests

    def series(self) -> list[str]:
        names = [_decoded(folder) for folder in self._place.folders(_SERIES)]
        return sorted(name for name in names if name is not None and self.versions(name))

    def versions(self, series: str) -> list[int]:
        # An empty object keeps the number of a version that was deleted. What others may have put there is ignored.
        folder = f"{_SERIES}/{_encoded(series)}"
        keys = [item.key for item in self._place.items(folder) if item.size]
        return [int(found[1]) for key in keys if (found := re.fullmatch(rf"{folder}/(\d{{16}})", key))]

    def read_manifest(self, series: str, version: int) -> bytes:
        data = self._place.get(_key(_SERIES, series, version))
        if not data:
            raise KeyError((series, version))
        return data

    def create_manifest(self, series: str, version: int, data: bytes) -> None:
        key = _key(_SERIES, series, version)
        if self._place.create(key, data):
            return
        there = self._place.get(key)
        if not there and self._note(series, version) == data:
            # The very version that was deleted is brought back, by copy(). Nobody else can make another of that number.
            self._place.put(key, data)
        elif there != data:  # if it is ours, an answer was lost and the request sent again
            raise VersionConflict(
                f"version {version} of {series!r} exists already in {self.url}",
                hint="series.refresh() compares with the newest version; then commit again",
            )

    def delete_manifests(self, series: str, versions: Sequence[int]) -> None:
        for version in versions:
            try:
                data = self.read_manifest(series, version)
            except KeyError:
                continue
            # First the note of when, and of which packs; then the version itself.
            self._place.put(_key(_DELETED, series, version), data)
            self._place.put(_key(_SERIES, series, version), b"")

    # Itself

    def check(self) -> list[str]:
        return []

    def now_ns(self) -> int:
        return self._place.now_ns(_CLOCK)

    def reclaim(self, before_ns: int) -> None:
        old = [item.key.partition("/")[2] for item in self._place.items(_DELETED) if item.written_ns <= before_ns]
        if old:
            # A version that a killed prune() had only made its note of is still there.
            empty = {item.key for item in self._place.items(_SERIES) if not item.size}
            self._place.delete([key for rest in old if (key := f"{_SERIES}/{rest}") in empty])
            self._place.delete([f"{_DELETED}/{rest}" for rest in old])

    def close(self) -> None:
        self._place.close()

    def _note(self, series: str, version: int) -> bytes | None:
        try:
            return self._place.get(_key(_DELETED, series, version))
        except KeyError:
            return None

    def _named_by(self, note: Item) -> set[str]:
        try:
            return {ref.name for ref in Manifest.from_bytes(self._place.get(note.key)).packs}
        except (DataCorrupt, KeyError):  # forgotten meanwhile; or damaged, and then nobody could read it
            return set()


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _key(folder: str, series: str, version: int) -> str:
    return f"{folder}/{_encoded(series)}/{version:016d}"


def _encoded(series: str) -> str:
    """The name of a series as one part of a key: bytes of UTF-8 but for letters, digits, - and _ as =XX."""
    letters = (chr(byte) for byte in series.encode())
    key = "".join(x if x.isascii() and (x.isalnum() or x in "-_") else f"={ord(x):02X}" for x in letters)
    if len(key) > _LONGEST:
        raise InvalidArgument(
            f"the name {series!r} takes {len(key)} bytes as part of a key, and {_LONGEST} is the most",
            hint="use a shorter name, or letters of ASCII",
        )
    return key


def _decoded(key: str) -> str | None:
    """The name that stands in a key as this; None for what is no name of ours."""
    try:
        first, *rest = key.split("=")
        name = b"".join([first.encode(), *(bytes.fromhex(x[:2]) + x[2:].encode() for x in rest)]).decode()
        return name if _encoded(name) == key else None
    except (ValueError, InvalidArgument):
        return None
