"""What one does to a store now and then: verify it, prune it, copy it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataCorrupt, InvalidArgument, NoSuchVersion, VersionConflict
from .ahead import mapped, threads
from .base import GRACE_NS
from .codec import Codec, decode
from .contents import Contents, blamed, load, read_indexes, read_manifest
from .digests import differ, page_digests
from .packs import HEADER_SIZE, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from .base import Backend
    from .manifest import Manifest, PackRef
    from .packs import PackIndex

    #: Called now and then during long work: bytes done, bytes in all.
    Progress = Callable[[int, int], object]

#: How long a pack that no manifest names is left alone where nobody else writes meanwhile, in nanoseconds: another
#: writer may have prepared it, and be about to commit.
_LOCAL_GRACE_NS = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a store that is not what it should be.

    Attributes:
        series: whose version is damaged; None if it is the store itself.
        version: its number, or None.
        buffer: the damaged buffer; None if it is the whole version.
        what: what is wrong, in words.
    """

    series: str | None
    version: int | None
    buffer: str | None
    what: str

    def __str__(self) -> str:
        if self.series is None:
            return self.what
        of = f", buffer {self.buffer!r}" if self.buffer is not None else ""
        return f"version {self.version} of {self.series!r}{of}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What verify() found. True if nothing is damaged.

    Attributes:
        versions: how many were looked at.
        packs: how many packs they need.
        nbytes: bytes of those packs, all of which were read.
        orphans: packs that no version needs; they harm nothing.
        damage: what is damaged, version by version; empty if nothing is.
    """

    versions: int
    packs: int
    nbytes: int
    orphans: int
    damage: tuple[Damage, ...]

    def __bool__(self) -> bool:
        return not self.damage


@dataclass(frozen=True, slots=True)
class Pruned:
    """What prune() removed.

    Attributes:
        versions: numbers, by series.
        packs: how many packs went with them.
        nbytes: bytes of those packs.
    """

    versions: dict[str, tuple[int, ...]]
    packs: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Copied:
    """What copy() brought over; what was there before is not counted.

    Attributes:
        versions: how many versions.
        packs: how many packs.
        nbytes: bytes of those packs.
    """

    versions: int
    packs: int
    nbytes: int


@dataclass(slots=True)
class _Health:
    """What is wrong with a pack: of each frame the pages that are damaged, with the reason of the first."""

    why: dict[int, str] = field(default_factory=dict)
    slots: dict[int, NDArray[np.int64]] = field(default_factory=dict)


# --- verify ----------------------------------------------------------------------------------------------------------


def verify(backend: Backend, series: str | None = None, progress: Progress | None = None) -> Verification:
    """Read everything, and check it against its digests."""
    damage = [Damage(None, None, None, what) for what in backend.check()]
    versions = list(_all_versions(backend, series))
    sound: list[tuple[str, int]] = []
    packs: dict[str, tuple[PackRef, PackIndex]] = {}
    for name, number in versions:
        try:
            contents = load(backend, name, number)
            _check_parent(backend, contents.manifest)
        except (DataCorrupt, KeyError) as error:
            damage.append(_damage(name, number, error))
            continue
        sound.append((name, number))
        needed = ((contents.manifest.packs[which], index) for which, index in contents.indexes.items())
        packs |= {ref.name: (ref, index) for ref, index in needed}
    total, done = sum(ref.size for ref, _ in packs.values()), 0
    health = {}
    for ref, index in packs.values():
        health[ref.name] = _examined(backend, ref, index)
        done += ref.size
        if progress is not None:
            progress(done, total)
    if any(ill.why for ill in health.values()):
        # Read again, rather than kept: what is said of every page of every version may be a lot.
        for name, number in sound:
            damage += _suffering(load(backend, name, number), health)
    orphans = 0 if series is not None or damage else len(set(backend.packs()) - set(packs))
    return Verification(len(versions), len(packs), total, orphans, tuple(damage))


def _all_versions(backend: Backend, series: str | None) -> Iterator[tuple[str, int]]:
    for name in backend.series() if series is None else [series]:
        numbers = backend.versions(name)
        if not numbers and series is not None:
            raise NoSuchVersion(f"there is no series {name!r} in {backend.url}")
        for number in numbers:
            yield name, number


def _damage(name: str, number: int, error: Exception) -> Damage:
    if isinstance(error, DataCorrupt):
        cause = error.__cause__
        what = cause.message if isinstance(cause, DataCorrupt) else error.message
        return Damage(name, number, error.buffer, what)
    return Damage(name, number, None, "it is listed, and not there")


def _check_parent(backend: Backend, manifest: Manifest) -> None:
    """Raise DataCorrupt if the parent is there and is not the version that this one was made from."""
    if manifest.parent is None:
        return
    with blamed(manifest.series, manifest.version):
        try:
            _, digest = read_manifest(backend, manifest.series, manifest.parent)
        except (KeyError, DataCorrupt):  # pruned, or damaged, which is told of that version
            return
        if digest != manifest.parent_digest:
            raise DataCorrupt(f"its parent, version {manifest.parent}, is not the one it was made from")


def _examined(backend: Backend, ref: PackRef, index: PackIndex) -> _Health:
    """Read a whole pack and check every page of it."""
    health = _Health()
    if backend.read_pack(ref.name, 0, HEADER_SIZE) != header(index.page_size):
        health.why[-1] = f"pack {ref.name} does not begin as a pack does"
    starts = np.cumsum(np.where(index.frames["codec"] == Codec.ZERO, 0, index.frames["pages"]), dtype=np.int64)

    def check(task: tuple[int, bytes | DataCorrupt]) -> None:
        number, data = task
        frame = index.frames[number]
        pages = int(frame["pages"])
        try:
            if isinstance(data, DataCorrupt):
                raise data
            plain = decode(int(frame["codec"]), data, pages * index.page_size)
        except DataCorrupt as error:
            health.why[number], health.slots[number] = error.message, np.arange(pages)
            return
        expected = index.digests[int(starts[number]) - pages : int(starts[number])]
        wrong = np.flatnonzero(differ(page_digests(np.frombuffer(plain, np.uint8).reshape(pages, -1)), expected))
        if len(wrong):
            health.why[number], health.slots[number] = "a page does not match its digest", wrong

    with threads() as pool:
        for _ in mapped(check, _frames(backend, ref, index), pool):
            pass
    return health


def _frames(backend: Backend, ref: PackRef, index: PackIndex) -> Iterator[tuple[int, bytes | DataCorrupt]]:
    """The frames that store something: their numbers, and what is stored, or why it cannot be read."""
    for number, frame in enumerate(index.frames):
        if frame["codec"] != Codec.ZERO:
            try:
                yield number, backend.read_pack(ref.name, int(frame["offset"]), int(frame["length"]))
            except DataCorrupt as error:
                yield number, error


def _suffering(contents: Contents, health: dict[str, _Health]) -> Iterator[Damage]:
    """The buffers of a version that need a damaged page."""
    manifest = contents.manifest
    for which in contents.indexes:
        name = manifest.packs[which].name
        ill = health[name]
        if -1 in ill.why:
            yield Damage(manifest.series, manifest.version, None, ill.why[-1])
        for entry in manifest.buffers:
            columns = contents.pages[entry.key]
            for frame, slots in ill.slots.items():
                mine = (columns.pack == which) & (columns.frame == frame) & np.isin(columns.slot, slots)
                if mine.any():
                    page = int(np.flatnonzero(mine)[0])
                    what = f"{ill.why[frame]} (page {page}, {int(mine.sum())} pages in frame {frame} of {name})"
                    yield Damage(manifest.series, manifest.version, entry.name, what)


# --- prune -----------------------------------------------------------------------------------------------------------


def prune(
    backend: Backend, series: str | None, keep_last: int | None, keep_every: int | None, grace: float | None = None
) -> Pruned:
    """Forget versions, and the packs that only they need."""
    grace_ns = (_LOCAL_GRACE_NS if backend.atomic else GRACE_NS) if grace is None else int(grace * 1e9)
    for name, value in (("keep_last", keep_last), ("keep_every", keep_every)):
        if value is not None and value < 1:
            raise InvalidArgument(f"{name} = {value}", hint="a number from 1 on; the newest version is always kept")
    if keep_last is None and keep_every is None:
        raise InvalidArgument("prune() was not told what to keep", hint="prune(keep_last=10), prune(keep_every=100)")
    with backend.batch():
        gone: dict[str, list[int]] = {}
        for name, number in _all_versions(backend, series):
            gone.setdefault(name, []).append(number)
        gone = {name: _unwanted(numbers, keep_last, keep_every) for name, numbers in gone.items()}
        freed = {ref.name for name, numbers in gone.items() for ref in _needed(backend, name, numbers)}
        for name, numbers in gone.items():
            backend.delete_manifests(name, numbers)
        # Of a version that stays and cannot be read it is not known what it needs: then this raises.
        needed = {ref.name for name in backend.series() for ref in _needed(backend, name, backend.versions(name))}
        packs = backend.packs()
        # Where others may be reading what was just deleted, its packs too have to wait.
        at_once = freed if backend.atomic else set()
        before = backend.now_ns() - grace_ns
        old = {name for name, info in packs.items() if info.written_ns <= before}
        dead = sorted((packs.keys() & (at_once | old)) - needed)
        backend.delete_packs(dead)
    backend.reclaim(before)
    removed = {name: tuple(numbers) for name, numbers in gone.items() if numbers}
    return Pruned(removed, len(dead), sum(packs[name].size for name in dead))


def _unwanted(numbers: list[int], keep_last: int | None, keep_every: int | None) -> list[int]:
    kept = set(numbers[-(keep_last or 1) :])
    if keep_every is not None:
        kept |= {number for number in numbers if number % keep_every == 0}
    return [number for number in numbers if number not in kept]


def _needed(backend: Backend, name: str, numbers: list[int]) -> Iterator[PackRef]:
    for number in numbers:
        yield from read_manifest(backend, name, number)[0].packs


# --- copy ------------------------------------------------------------------------------------------------------------


def copy(source: Backend, target: Backend, series: str | None = None, progress: Progress | None = None) -> Copied:
    """Bring versions over, with the packs that they need; what is there already stays."""
    versions = list(_all_versions(source, series))
    have = set(target.packs())
    manifests = [read_manifest(source, name, number)[0] for name, number in versions]
    total = sum({ref.name: ref.size for m in manifests for ref in m.packs if ref.name not in have}.values())
    done = packs = copied = 0
    for (name, number), manifest in zip(versions, manifests, strict=True):
        data = source.read_manifest(name, number)
        if not _is_new(target, name, number, data):
            continue
        for ref in manifest.packs:
            if ref.name in have:
                continue
            with target.batch(), blamed(name, number):
                if target.put_pack(ref.name, _whole(source, manifest, ref)) != ref.size:
                    raise DataCorrupt(f"its pack {ref.name} has not the size it should have")
            have.add(ref.name)
            done, packs = done + ref.size, packs + 1
            if progress is not None:
                progress(done, total)
        with target.batch():
            target.create_manifest(name, number, data)
        copied += 1
    return Copied(copied, packs, done)


def _is_new(target: Backend, name: str, number: int, data: bytes) -> bool:
    """Whether the target lacks a version. Raises VersionConflict if it has another one of that number."""
    with contextlib.suppress(KeyError):
        if target.read_manifest(name, number) != data:
            raise VersionConflict(
                f"{target.url} has a different version {number} of {name!r}", hint="copy to a store of its own"
            )
        return False
    return True


def _whole(source: Backend, manifest: Manifest, ref: PackRef) -> Iterator[bytes]:
    """The bytes of a pack, frame by frame, each checked before it goes out."""
    (index,) = read_indexes(source, manifest, [ref])
    health = _examined(source, ref, index)
    if health.why:
        raise DataCorrupt(f"its pack {ref.name}: {next(iter(health.why.values()))}")
    yield source.read_pack(ref.name, 0, HEADER_SIZE)
    for _, data in _frames(source, ref, index):
        if isinstance(data, DataCorrupt):
            raise data
        yield data
    yield source.read_pack(ref.name, ref.size - ref.index, ref.index)
