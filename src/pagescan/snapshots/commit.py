"""Makes a version of what one or more writers prepared: the manifest that names their packs."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, VersionConflict
from .base import GRACE_NS
from .contents import read_manifest
from .manifest import BufferEntry, Manifest, PackRef, buffer_entry, pack_ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Backend


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one writer brings to a version: its buffers, and packs that are written and that nobody names yet.

    Made by :meth:`Series.prepare`, committed by :meth:`Store.commit`, in whatever process: it is small, and may be
    pickled, or sent as JSON.

    Attributes:
        series: the name.
        parent: number of the version it builds on, None for the first of the series.
        parent_digest: of that version's manifest.
        newest: number of the newest version in the store when this was prepared, 0 for none.
        time_ns: when that was, since 1970 in UTC.
        commit: 32 random hexadecimal digits, of this writer and this step.
        page_size: bytes of a page.
        buffers: all that this writer has.
        packs: all packs that are needed to read them, oldest first.
        new_packs: how many of those, the last, were written now.
    """

    series: str
    parent: int | None
    parent_digest: str
    newest: int
    time_ns: int
    commit: str
    page_size: int
    buffers: tuple[BufferEntry, ...]
    packs: tuple[PackRef, ...]
    new_packs: int

    def to_json(self) -> str:
        """As a text of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Prepared:
        """From that text. Raises InvalidArgument if it is none."""
        try:
            values = json.loads(text)
            values["buffers"] = tuple(buffer_entry(entry) for entry in values["buffers"])
            values["packs"] = tuple(pack_ref(entry) for entry in values["packs"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(f"this is not what prepare().to_json() makes: {error!r}") from error


def check_newest(backend: Backend, series: str, expected: int) -> None:
    """Raise VersionConflict unless the newest version of the series has this number (0: there is none)."""
    numbers = backend.versions(series)
    newest = numbers[-1] if numbers else 0
    if newest != expected:
        raise VersionConflict(
            f"another writer has made version {newest} of {series!r}; this one knows of {expected or 'none'}",
            hint="series.refresh() compares with the newest version; then commit again",
        )


def check_parent(backend: Backend, series: str, number: int | None, expected: str) -> Manifest | None:
    """The version that a writer builds on (None: nothing). Raises VersionConflict unless it is the one it knows."""
    if number is None:
        return None
    try:
        parent, found = read_manifest(backend, series, number)
    except KeyError:
        found = "none"
    if found != expected:
        raise VersionConflict(
            f"version {number} of {series!r}, on which this writer builds, was replaced or pruned",
            hint="series.refresh() compares with the newest version; then commit again",
        )
    return parent


def _check_age(backend: Backend, parts: Sequence[Prepared]) -> None:
    """Raise VersionConflict if packs may already be taken for left over, where nothing can keep others from that."""
    if not backend.atomic and time.time_ns() - min(part.time_ns for part in parts) > GRACE_NS // 2:
        raise VersionConflict(
            f"the next version of {parts[0].series!r} was prepared more than half a day ago, and may have been pruned",
            hint="let every writer prepare() again",
        )


def create(
    backend: Backend, parts: Sequence[Prepared], *, note: str = "", attributes: dict[str, Any] | None = None
) -> Manifest:
    """Make a version of what one or more writers prepared: the commit. Inside a batch of the backend.

    Raises VersionConflict if the store has moved on, InvalidArgument if the parts do not belong together.
    """
    first = parts[0]
    _check_parts(parts)
    _check_age(backend, parts)
    check_newest(backend, first.series, first.newest)
    inherited = _inherited(check_parent(backend, first.series, first.parent, first.parent_digest), parts)
    new = [ref for part in parts for ref in part.packs[len(part.packs) - part.new_packs :]]
    packs = (*inherited, *new)
    manifest = Manifest(
        series=first.series,
        version=first.newest + 1,
        parent=first.parent,
        parent_digest=first.parent_digest,
        commits=tuple(part.commit for part in parts),
        time_ns=time.time_ns(),
        note=note,
        page_size=first.page_size,
        buffers=_renumbered(parts, packs),
        packs=packs,
        new_packs=len(new),
        written_pages=sum(ref.pages for ref in new),
        written_bytes=sum(ref.size for ref in new),
        attributes=attributes or {},
    )
    missing = backend.missing_packs(ref.name for ref in manifest.packs)
    if missing:
        raise VersionConflict(
            f"{len(missing)} of the packs that the next version of {first.series!r} needs were deleted meanwhile",
            hint="series.refresh() compares with the newest version; then commit again",
        )
    backend.create_manifest(first.series, manifest.version, manifest.to_bytes())
    return manifest


def commit_parts(
    backend: Backend,
    parts: Sequence[Prepared],
    *,
    note: str = "",
    attributes: dict[str, Any] | None = None,
    relayout: bool = False,
) -> Manifest:
    """:func:`create` of what several writers prepared. To do it again with the same parts is no error."""
    if not parts:
        raise InvalidArgument("commit() was given nothing", hint="store.commit([series.prepare(), ...])")
    _check_parts(parts)
    try:
        manifest, _ = read_manifest(backend, parts[0].series, parts[0].newest + 1)
        if manifest.commits == tuple(part.commit for part in parts):
            return manifest
    except KeyError:
        pass
    with backend.batch():
        if not relayout:
            _check_complete(backend, parts)
        return create(backend, parts, note=note, attributes=attributes)


def _check_complete(backend: Backend, parts: Sequence[Prepared]) -> None:
    first = parts[0]
    parent = check_parent(backend, first.series, first.parent, first.parent_digest)
    before = {entry.name for entry in parent.buffers} if parent is not None else set()
    missing = sorted(before - {entry.name for part in parts for entry in part.buffers})
    if missing:
        raise InvalidArgument(
            f"version {first.parent} of {first.series!r} has {len(missing)} buffers that nobody prepared now: "
            f"{', '.join(missing[:5])}",
            hint="pass what every writer prepared, or relayout=True if they are to go",
        )


def _renumbered(parts: Sequence[Prepared], packs: Sequence[PackRef]) -> tuple[BufferEntry, ...]:
    """The buffers of all parts, with the numbers that their packs have in the version."""
    number = {ref.name: number for number, ref in enumerate(packs)}
    return tuple(
        dataclasses.replace(entry, packs=tuple(sorted(number[part.packs[old].name] for old in entry.packs)))
        for part in parts
        for entry in part.buffers
    )


def _inherited(parent: Manifest | None, parts: Sequence[Prepared]) -> list[PackRef]:
    """The older packs of all parts, in the order that their parent has them: of two that tell of a page, the later
    has to come later."""
    packs = {ref.name: ref for part in parts for ref in part.packs[: len(part.packs) - part.new_packs]}
    if parent is None:
        return list(packs.values())
    order = {ref.name: number for number, ref in enumerate(parent.packs)}
    return sorted(packs.values(), key=lambda ref: order[ref.name])


def _check_parts(parts: Sequence[Prepared]) -> None:
    first = parts[0]
    for part in parts[1:]:
        one, other = ((p.series, p.parent, p.parent_digest, p.newest, p.page_size) for p in (first, part))
        if one != other:
            raise InvalidArgument(
                f"the parts do not build on the same version: {one[:2]} and {other[:2]}",
                hint="let every writer refresh() and prepare() again",
            )
    names = [entry.name for part in parts for entry in part.buffers]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument(
            f"two writers bring a buffer {twice!r}", hint="give each writer's buffers names of their own"
        )
