"""Manifests: what one version of a series is. Defined by ``docs/formats/store.md``."""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataCorrupt, InvalidArgument
from .base import FORMAT, other_format
from .digests import SIZE, digest

_HEADER = struct.Struct("<4sHHI")
_MAGIC = b"PgSM"


@dataclass(frozen=True, slots=True)
class BufferEntry:
    """A buffer of a version.

    Attributes:
        name: what the user calls it.
        key: under which packs know it; drawn at random when the buffer first appeared in the series.
        dtype: of numpy, as in the ``.npy`` format: ``"<f8"``, or a list of fields.
        shape: elements along each dimension; C order.
        nbytes: length in bytes.
        digest: of the digests of its pages, in hexadecimal digits.
        attributes: what the writer wants to keep with it; values of JSON.
        packs: which of the version's packs are needed to read it: their numbers, ascending.
    """

    name: str
    key: str
    dtype: Any
    shape: tuple[int, ...]
    nbytes: int
    digest: str
    attributes: dict[str, Any] = field(default_factory=dict)
    packs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PackRef:
    """A pack that a version needs.

    Attributes:
        name: under which the backend keeps it.
        size: bytes in all.
        index: bytes of the index, which are its last.
        digest: of the index, in hexadecimal digits.
        pages: that it tells of.
    """

    name: str
    size: int
    index: int
    digest: str
    pages: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one series.

    Attributes:
        series: its name.
        version: its number, from 1.
        parent: number of the version that its new packs build on; None for the first.
        parent_digest: of that version's manifest, in hexadecimal digits; "" for the first.
        commits: of each writer that has a part in it, 32 random digits by which it knows its own commit.
        time_ns: when it was committed, since 1970 in UTC.
        note: the user's words.
        page_size: bytes of a page in the store, a power of two.
        buffers: all of them.
        packs: all that are needed to read it, oldest first: of two that tell of a page, the later is right.
        new_packs: how many of them, the last, this version brought.
        written_pages, written_bytes: what this version brought: pages, and bytes of packs.
        attributes: what the writer wants to keep with it; values of JSON.
    """

    series: str
    version: int
    parent: int | None
    parent_digest: str
    commits: tuple[str, ...]
    time_ns: int
    note: str
    page_size: int
    buffers: tuple[BufferEntry, ...]
    packs: tuple[PackRef, ...]
    new_packs: int
    written_pages: int
    written_bytes: int
    attributes: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The manifest as it is stored."""
        text = json.dumps(_plain(self), ensure_ascii=False, separators=(",", ":")).encode()
        head = _HEADER.pack(_MAGIC, FORMAT, 0, len(text))
        return head + digest(head, text) + text

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Raises DataCorrupt if it is damaged, InvalidArgument if its format is another. Unknown names are ignored."""
        start = _HEADER.size + SIZE
        if len(data) < start or data[:4] != _MAGIC:
            raise DataCorrupt("it is no manifest of pagescan")
        _, version, _, length = _HEADER.unpack_from(data)
        if digest(data[: _HEADER.size], data[start:]) != data[_HEADER.size : start] or len(data) != start + length:
            raise DataCorrupt("the manifest does not match its digest")
        if version != FORMAT:
            raise other_format("a version", str(version))
        try:
            return _from_json(json.loads(data[start:]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataCorrupt(f"the manifest makes no sense: {error}") from error

    def buffer(self, name: str) -> BufferEntry:
        """The buffer of that name. Raises InvalidArgument."""
        for entry in self.buffers:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.buffers)
        raise InvalidArgument(
            f"version {self.version} of {self.series!r} has no buffer {name!r}", hint=f"it has {names}"
        )


def manifest_digest(data: bytes) -> str:
    """The digest that a stored manifest carries, in hexadecimal digits."""
    return data[_HEADER.size : _HEADER.size + SIZE].hex()


#: The fields of each, in order. (To ask dataclasses every time costs more than to write the JSON.)
_NAMES: dict[type, tuple[str, ...]] = {
    kind: tuple(item.name for item in dataclasses.fields(kind)) for kind in (Manifest, BufferEntry, PackRef)
}


def _plain(value: Manifest | BufferEntry | PackRef) -> dict[str, Any]:
    """The fields of a dataclass, and of those in its tuples. (dataclasses.asdict copies every value deeply.)"""
    return {name: _listed(getattr(value, name)) for name in _NAMES[type(value)]}


def _listed(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return [_plain(item) if isinstance(item, BufferEntry | PackRef) else item for item in value]


def _from_json(values: dict[str, Any]) -> Manifest:
    chosen = _chosen(Manifest, values)
    chosen["commits"] = tuple(chosen["commits"])
    chosen["buffers"] = tuple(buffer_entry(entry) for entry in chosen["buffers"])
    chosen["packs"] = tuple(pack_ref(entry) for entry in chosen["packs"])
    if any(not 0 <= number < len(chosen["packs"]) for entry in chosen["buffers"] for number in entry.packs):
        raise ValueError("a buffer needs a pack that is not named")
    return Manifest(**chosen)


def pack_ref(values: dict[str, Any]) -> PackRef:
    """A reference to a pack, from JSON."""
    return PackRef(**_chosen(PackRef, values))


def buffer_entry(values: dict[str, Any]) -> BufferEntry:
    """A buffer, from JSON. Raises KeyError, TypeError or ValueError if it makes no sense."""
    chosen = _chosen(BufferEntry, values)
    chosen["shape"], chosen["packs"] = (tuple(map(int, chosen[name])) for name in ("shape", "packs"))
    entry = BufferEntry(**chosen)
    if dtype_of(entry).itemsize * int(np.prod(entry.shape, dtype=np.int64)) != entry.nbytes:
        raise ValueError(f"{entry.nbytes} bytes for {entry.dtype} of shape {entry.shape}")
    return entry


def _chosen(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _NAMES[kind]}


def dtype_of(entry: BufferEntry) -> np.dtype[Any]:
    """The numpy dtype of a buffer."""
    return np.lib.format.descr_to_dtype(_tuples(entry.dtype))


def _tuples(descr: Any) -> Any:
    """JSON has lists for the tuples of a structured dtype's description."""
    if not isinstance(descr, list):
        return descr
    return [
        (tuple(field[0]) if isinstance(field[0], list) else field[0], _tuples(field[1]), *map(tuple, field[2:]))
        for field in descr
    ]
