"""What a version says of every page: its digest, and in which frame of which pack it is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataCorrupt
from .digests import buffer_digest, digest, empty_table, table_sum
from .manifest import Manifest, manifest_digest
from .packs import PackIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .base import Backend
    from .digests import Table
    from .manifest import BufferEntry, PackRef


@dataclass(frozen=True, slots=True)
class PageColumns:
    """The pages of one buffer, as columns with one element a page.

    Attributes:
        digest: of the page; zeros for a page of zeros.
        pack: which of the manifest's packs tells of it, -1 for none: then it is zeros.
        frame, slot: where in that pack.
    """

    digest: Table
    pack: NDArray[np.int32]
    frame: NDArray[np.int32]
    slot: NDArray[np.uint8]

    @classmethod
    def empty(cls, pages: int) -> PageColumns:
        """Of a buffer of zeros."""
        none = np.full(pages, -1, np.int32)
        return cls(empty_table(pages), none, np.zeros(pages, np.int32), np.zeros(pages, np.uint8))


@dataclass(frozen=True, slots=True)
class Contents:
    """A version with what its packs say.

    Attributes:
        manifest: of the version.
        digest: of the manifest, in hexadecimal digits.
        indexes: of its packs, by their numbers in the manifest.
        pages: of each buffer, by its key.

    If it was loaded in part, these are there of some buffers only.
    """

    manifest: Manifest
    digest: str
    indexes: dict[int, PackIndex]
    pages: dict[str, PageColumns]


@contextlib.contextmanager
def blamed(series: str, version: int, buffer: str | None = None) -> Iterator[None]:
    """DataCorrupt raised inside, with the version and the buffer named."""
    try:
        yield
    except DataCorrupt as error:
        if error.series is not None:
            raise
        of = f", buffer {buffer!r}" if buffer is not None else ""
        raise DataCorrupt(
            f"version {version} of {series!r}{of} is damaged: {error.message}",
            hint=error.hint or "the other versions may be whole: verify() tells which",
            series=series,
            version=version,
            buffer=buffer,
        ) from error


def page_count(nbytes: int, page_size: int) -> int:
    """Pages of so many bytes; the last may be partly used."""
    return -(-nbytes // page_size)


def read_manifest(backend: Backend, series: str, version: int) -> tuple[Manifest, str]:
    """A manifest and its digest. Raises KeyError if there is none, DataCorrupt if it is not what it should be."""
    data = backend.read_manifest(series, version)
    with blamed(series, version):
        manifest = Manifest.from_bytes(data)
        if (manifest.series, manifest.version) != (series, version):
            raise DataCorrupt(f"it is the manifest of version {manifest.version} of {manifest.series!r}")
        return manifest, manifest_digest(data)


def load(backend: Backend, series: str, version: int, prefix: str = "") -> Contents:
    """A version with its indexes read and checked; of the buffers alone whose names begin with ``prefix``.

    Raises KeyError if there is no such version, DataCorrupt.
    """
    manifest, own_digest = read_manifest(backend, series, version)
    wanted = [entry for entry in manifest.buffers if entry.name.startswith(prefix)]
    with blamed(series, version):
        numbers = sorted({number for entry in wanted for number in entry.packs})
        refs = [manifest.packs[number] for number in numbers]
        indexes = dict(zip(numbers, read_indexes(backend, manifest, refs), strict=True))
        pages = _columns(wanted, manifest.page_size, indexes)
    for entry in wanted:
        with blamed(series, version, entry.name):
            check_buffer(entry, pages[entry.key].digest)
    return Contents(manifest, own_digest, indexes, pages)


def read_indexes(backend: Backend, manifest: Manifest, refs: list[PackRef]) -> list[PackIndex]:
    """The indexes of packs. Raises DataCorrupt."""
    stored = backend.read_packs([(ref.name, ref.size - ref.index, ref.index) for ref in refs])
    return [_index(manifest, ref, data) for ref, data in zip(refs, stored, strict=True)]


def _index(manifest: Manifest, ref: PackRef, data: bytes | None) -> PackIndex:
    if data is None:
        raise DataCorrupt(f"its pack {ref.name} is missing")
    if digest(data).hex() != ref.digest:
        raise DataCorrupt(f"the index of its pack {ref.name} does not match its digest")
    index = PackIndex.from_bytes(data)
    if index.page_size != manifest.page_size:
        raise DataCorrupt(f"its pack {ref.name} has pages of {index.page_size} bytes")
    return index


def check_buffer(entry: BufferEntry, table: Table) -> None:
    """Raise DataCorrupt unless the digests of the pages are those the version was made of."""
    if buffer_digest(table_sum(table)) != entry.digest:
        raise DataCorrupt("its pages are not those it was made of")


def _columns(entries: list[BufferEntry], page_size: int, indexes: dict[int, PackIndex]) -> dict[str, PageColumns]:
    columns = {entry.key: PageColumns.empty(page_count(entry.nbytes, page_size)) for entry in entries}
    for number, index in indexes.items():
        records = index.records()
        for which, key in enumerate(index.keys):
            mine = records.buffer == which
            column = columns.get(key)
            if column is None:  # a buffer that this version no longer has
                continue
            # A buffer may have become shorter.
            mine &= records.page < len(column.pack)
            page = records.page[mine]
            column.digest[page], column.pack[page] = records.digest[mine], number
            column.frame[page], column.slot[page] = records.frame[mine], records.slot[mine]
    return columns
