"""What a backend is: it keeps packs and manifests, both immutable, and knows nothing of what is in them.

A *pack* is a run of bytes under a name that its writer draws at random: frames of pages, and an index. A *manifest*
is one version of one series, under the name of the series and a number. A version exists from the moment its manifest
does, and everything it needs is there before: the manifest is the commit. So a pack that no manifest names is left
from a commit that failed, and harms nothing; :meth:`Backend.delete_packs` is called for it sooner or later.

Everything above works on any backend; a backend raises the errors below and no others of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

#: The number of the format that is written and read: docs/formats/store.md.
FORMAT = 2

#: Bytes as they are handed to a backend; a memoryview is of single bytes, in one piece.
Piece: TypeAlias = "bytes | memoryview"

#: For how long a pack that no manifest names is left alone where nothing keeps others from writing: one may be about to
#: name it, or to have read a manifest that did. One day.
GRACE_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A pack that a backend holds.

    Attributes:
        size: bytes.
        written_ns: when it was written or, where ``atomic`` is not so, when the last version that named it was deleted,
            if that is later; compare with :meth:`Backend.now_ns`.
    """

    size: int
    written_ns: int


def other_format(what: str, found: str) -> InvalidArgument:
    """The error for what was written in another format."""
    newer = any(number.isdigit() and int(number) > FORMAT for number in found.split(", "))
    return InvalidArgument(
        f"{what} has format {found}, and this pagescan reads format {FORMAT}",
        hint="pip install -U pagescan" if newer else "read it with the pagescan that wrote it, and keep it anew",
    )


class Backend(Protocol):
    """Where packs and manifests are kept. Used by one thread at a time: the store holds a lock.

    Attributes:
        url: how messages name it.
        atomic: whether what is put in a :meth:`batch` that fails is taken back. Where it is not, packs may stay.
        gap: bytes of a pack that are better read and thrown away than left out by a second read.
        at_once: how many reads :meth:`read_packs` carries out at the same time.
    """

    url: str
    atomic: bool
    gap: int
    at_once: int

    def batch(self) -> AbstractContextManager[None]:
        """What is put inside is durable when the block ends. Where the backend can (``atomic``), nobody else writes
        meanwhile, and an exception in the block takes everything back. Batches do not nest."""

    # Packs

    def put_pack(self, name: str, parts: Iterable[Piece]) -> int:
        """Keep the parts, one after the other, as a new pack; returns its size in bytes. Inside a batch.

        The parts are made while they are consumed: a backend need not hold them all. If making one raises, no pack of
        that name is there afterwards (or only one that nobody names).
        """

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length) of a pack: fewer if it is shorter. Raises KeyError if there is none."""

    def read_packs(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """:meth:`read_pack` of each (name, offset, length), in order; None where there is no such pack."""

    def missing_packs(self, names: Iterable[str]) -> set[str]:
        """Those of the names under which there is no pack."""

    def packs(self) -> dict[str, PackInfo]:
        """Every pack. Whoever means to delete those that no manifest names reads the manifests first, then this."""

    def delete_packs(self, names: Iterable[str]) -> None:
        """Forget these packs; one that is not there is no error."""

    # Manifests

    def series(self) -> list[str]:
        """The names of the series that have a version, sorted."""

    def versions(self, series: str) -> list[int]:
        """The numbers of the versions of a series, ascending; none if there is no such series."""

    def read_manifest(self, series: str, version: int) -> bytes:
        """A manifest, byte by byte as it was created. Raises KeyError if there is none."""

    def create_manifest(self, series: str, version: int, data: bytes) -> None:
        """Make a new version: the commit. Inside a batch, and last in it.

        Raises VersionConflict if that version exists, whoever made it, and then nothing has changed. Of two writers
        that create the same version at once, exactly one succeeds.
        """

    def delete_manifests(self, series: str, versions: Sequence[int]) -> None:
        """Forget these versions; one that is not there is no error."""

    # Itself

    def check(self) -> list[str]:
        """What is damaged in the backend's own structure, in words; none if nothing is."""

    def now_ns(self) -> int:
        """The time by the clock that packs are dated by, in nanoseconds since 1970 in UTC. May write something."""

    def reclaim(self, before_ns: int) -> None:
        """Give back to the system what deleted packs took, and forget versions deleted before this time, where that
        takes a step of its own."""

    def close(self) -> None:
        """Let go of it; closing twice is no error."""
