"""Which engine answers: the first that proves itself on this very kind of memory, one forced by name, or none and why.

An engine is taken if a round trip on memory like the buffer's succeeds, and if the buffer itself can then be covered.
The reasons why better ones were passed over are kept: ``tracker.why`` and ``pagescan doctor`` tell them.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..abi import MemoryKind
from ..errors import (
    AccessDenied,
    InvalidArgument,
    KernelCannot,
    NotWriteProtectable,
    PagescanError,
    RegisteredElsewhere,
)
from .accessed import AccessedEngine
from .base import OwnEngines
from .compare import CompareEngine
from .hub import Hub
from .pagemap_read import PagemapReadEngine
from .pagemap_scan import PagemapScanEngine
from .prove import prove
from .soft_dirty import SoftDirtyEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..abi import AddressSpace
    from ..ranges import Regions
    from .base import Arm, Engine, Extent
    from .extents import Extents

#: What a tracker tells of pages: that they were written to, or that they were touched at all.
What = Literal["written", "accessed"]

_MAKERS: dict[str, Callable[[AddressSpace], Engine]] = {
    "pagemap-scan": PagemapScanEngine,
    "pagemap-read": PagemapReadEngine,
    "soft-dirty": SoftDirtyEngine,
    "compare": CompareEngine,
    "model": lambda space: PagemapScanEngine(space, "model"),
    "accessed": AccessedEngine,
}
#: The engines there are for written pages.
ENGINES = ("pagemap-scan", "pagemap-read", "soft-dirty", "compare", "model")
#: Those that need PAGEMAP_SCAN and asynchronous write protection, which has a proof of its own.
_SCANNING = ("pagemap-scan", "model")
#: Why an engine may be passed over; anything else is wrong with the call, or with the target.
_PASSED_OVER = (KernelCannot, NotWriteProtectable, RegisteredElsewhere, AccessDenied)

_lock, _proof_lock = threading.Lock(), threading.Lock()
#: By address space and engine: each has descriptors of its own.
_hubs: weakref.WeakKeyDictionary[AddressSpace, dict[str, Hub]] = weakref.WeakKeyDictionary()
#: What was proved in an address space, by engine and kind of memory. Failures are tried again: a permission may come.
_proofs: weakref.WeakKeyDictionary[AddressSpace, dict[tuple[str, MemoryKind], str]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one engine.

    Attributes:
        name: the engine.
        works: it proved itself.
        why: what was seen, or why it was passed over.
        hint: what mends it, or None.
    """

    name: str
    works: bool
    why: str
    hint: str | None = None


def candidates(space: AddressSpace, name: str = "auto") -> tuple[Sequence[str], bool]:
    """The engines to try, the best first, and whether one was forced: by name, or by PAGESCAN_ENGINE.

    Raises InvalidArgument for a name that is no engine, or that cannot work on this memory.
    """
    forced = name if name != "auto" else os.environ.get("PAGESCAN_ENGINE", "auto")
    if forced == "auto":
        return space.engines, False
    if forced not in (*ENGINES, *space.engines):
        raise InvalidArgument(f"engine = {forced!r}", hint=f"the engines are auto, {', '.join(ENGINES)}")
    if forced not in space.engines:
        raise InvalidArgument(
            f"engine = {forced!r} cannot track memory of {space.label}",
            hint="the model tracks its own memory: pagescan.model.Machine().process()"
            if forced == "model"
            else f"use one of {', '.join(space.engines)}",
        )
    return (forced,), True


def prove_engine(space: AddressSpace, name: str, kind: MemoryKind) -> str:
    """Why this engine is right for memory of this kind: what a round trip showed. Proved once for each.

    Raises KernelCannot, AccessDenied, NotWriteProtectable: why it is not.
    """
    _check_tracking(space, name)
    with _proof_lock:
        proofs = _proofs.setdefault(space, {})
    if (name, kind) not in proofs:
        try:
            seen = prove(space, kind, lambda trial: make_engine(trial, name))
        except OSError as error:
            if isinstance(error, PagescanError):
                raise
            raise KernelCannot(f"the round trip failed: {error}", errno=error.errno) from error
        proofs[name, kind] = space.prove_tracking().why if name in _SCANNING else seen
    return proofs[name, kind]


def _check_tracking(space: AddressSpace, name: str) -> None:
    if name not in _SCANNING:
        return
    proof = space.prove_tracking()
    if not proof.works:
        raise KernelCannot(
            f"written pages of {space.label} cannot be tracked here: {proof.why}",
            hint=proof.hint or "`pagescan doctor` shows what works on this machine",
        )


def survey(space: AddressSpace, kind: MemoryKind | None = None) -> list[Verdict]:
    """What became of each engine that ``auto`` tries, the best first; on private anonymous memory by default."""
    kind = kind or MemoryKind(anonymous=True, shared=False, page_size=space.page_size)
    verdicts = []
    for name in candidates(space)[0]:
        try:
            verdicts.append(Verdict(name, True, prove_engine(space, name, kind)))
        except PagescanError as error:
            verdicts.append(Verdict(name, False, error.message, error.hint))
    return verdicts


def choose(space: AddressSpace, name: str = "auto") -> tuple[str, str]:
    """The engine that ``auto`` takes for ordinary memory of this address space, and why: (name, sentence).

    Raises KernelCannot or AccessDenied if none proves itself, and InvalidArgument as :func:`candidates`.
    """
    names, forced = candidates(space, name)
    kind = MemoryKind(anonymous=True, shared=False, page_size=space.page_size)
    return first_that_works(names, forced, lambda one: prove_engine(space, one, kind))


def make_engine(space: AddressSpace, name: str) -> Engine:
    """An engine on this address space; what it opens is closed by its ``close``. Raises what opening raises."""
    if name not in _MAKERS and isinstance(space, OwnEngines):
        return space.make_engine(name)
    return _MAKERS[name](space)


@dataclass(frozen=True, slots=True)
class Covered:
    """Pages that an engine covers from now on.

    Attributes:
        hub: who is to be asked.
        extents: the pages, as its engine handles them.
        why: why this engine, and not a better one.
    """

    hub: Hub
    extents: Extents
    why: str


def cover(space: AddressSpace, pages: Regions, name: str, what: What, arm: Arm) -> Covered:
    """Cover these pages by the best engine that proves itself on their kinds of memory and takes them.

    Raises the best engine's error if none does, with what became of the others.
    """
    if what == "accessed":
        if name != "auto":
            raise InvalidArgument(
                f'what="accessed" has one engine of its own, not {name!r}', hint='leave engine="auto"'
            )
        hub = hub_of(space, "accessed")
        return Covered(hub, _cover(hub, pages, arm), AccessedEngine.why)
    names, forced = candidates(space, name)
    found: list[Covered] = []

    def attempt(one: str) -> str:
        _check_tracking(space, one)
        hub = hub_of(space, one)
        reasons = ["there is nothing to cover"]

        def check(extents: Sequence[Extent]) -> None:
            kinds = {MemoryKind(extent.anonymous, not extent.private, extent.page_size) for extent in extents}
            reasons[:] = [prove_engine(space, one, kind) for kind in kinds] or reasons

        found.append(Covered(hub, _cover(hub, pages, arm, check), ""))
        return reasons[0]

    _, why = first_that_works(names, forced, attempt)
    return Covered(found[0].hub, found[0].extents, why)


def _cover(hub: Hub, pages: Regions, arm: Arm, check: Callable[[Sequence[Extent]], None] | None = None) -> Extents:
    try:
        return hub.cover(pages, arm, check)
    except BaseException:
        drop_if_idle(hub)
        raise


def first_that_works(names: Sequence[str], forced: bool, attempt: Callable[[str], str]) -> tuple[str, str]:
    """The first engine whose attempt succeeds, and why it is this one: what its attempt returns, and why not a better.

    Raises the first one's error if none does.
    """
    passed: list[tuple[str, PagescanError]] = []
    for name in names:
        try:
            why = attempt(name)
        except _PASSED_OVER as error:
            passed.append((name, error))
            continue
        if forced:
            return name, f"forced by name; {why}"
        return name, "; ".join([why, *(f"{one} was passed over: {error.message}" for one, error in passed)])
    first = passed[0][1]
    if len(passed) > 1:
        others = "; ".join(f"{one}: {error.message}" for one, error in passed[1:])
        first.args = (f"{first.message} ({others})",)
        first.message = first.args[0]
    raise first


def hub_of(space: AddressSpace, engine: str) -> Hub:
    """The hub that all trackers of this address space by this engine share; made on first use."""
    with _lock:
        hubs = _hubs.setdefault(space, {})
        hub = hubs.get(engine)
        if hub is None or hub.in_child or hub.pid != os.getpid():
            hub = hubs[engine] = Hub(space, lambda: make_engine(space, engine))
        return hub


def drop_if_idle(hub: Hub) -> None:
    """Close the hub's descriptors once nothing is covered any more."""
    with _lock, hub.lock:
        hubs = _hubs.get(hub.space, {})
        if not hub.covers_anything() and hub in hubs.values():
            _hubs[hub.space] = {name: other for name, other in hubs.items() if other is not hub}
            hub.close()
