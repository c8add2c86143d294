"""Which engine answers: proved by a round trip, forced by name, or explained if none can."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Literal

from ..errors import InvalidArgument, KernelCannot
from .accessed import AccessedEngine
from .hub import Hub
from .pagemap_scan import PagemapScanEngine

if TYPE_CHECKING:
    from ..abi import AddressSpace
    from .base import Engine

#: What a tracker tells of pages: that they were written to, or that they were touched at all.
What = Literal["written", "accessed"]

#: The engines there are for written pages.
ENGINES = ("pagemap-scan", "model")

_lock = threading.Lock()
#: By address space and by what is tracked there: written and accessed pages take a userfaultfd each.
_hubs: weakref.WeakKeyDictionary[AddressSpace, dict[What, Hub]] = weakref.WeakKeyDictionary()


def choose(space: AddressSpace, name: str = "auto") -> tuple[str, str]:
    """The engine to use in this address space and why: (name, sentence).

    ``auto`` obeys the environment variable PAGESCAN_ENGINE. Raises KernelCannot if no engine proves itself, and
    InvalidArgument for a name that is no engine, or that cannot work on this memory.
    """
    forced = name if name != "auto" else os.environ.get("PAGESCAN_ENGINE", "auto")
    if forced not in ("auto", *ENGINES):
        raise InvalidArgument(f"engine = {forced!r}", hint=f"the engines are auto, {', '.join(ENGINES)}")
    if forced not in ("auto", *space.engines):
        raise InvalidArgument(
            f"engine = {forced!r} cannot track memory of {space.label}",
            hint="the model tracks its own memory: pagescan.model.Machine().process()"
            if forced == "model"
            else f"use engine={space.engines[0]!r}",
        )
    proof = space.prove_tracking()
    if not proof.works:
        raise KernelCannot(
            f"written pages of {space.label} cannot be tracked here: {proof.why}",
            hint=proof.hint or "`pagescan doctor` shows what works on this machine",
        )
    return space.engines[0], ("" if forced == "auto" else "forced by name; ") + proof.why


def hub_of(space: AddressSpace, name: str, what: What) -> Hub:
    """The hub that all trackers of this address space share; made on first use."""
    with _lock:
        hubs = _hubs.setdefault(space, {})
        hub = hubs.get(what)
        if hub is None or hub.in_child or hub.pid != os.getpid():
            hub = hubs[what] = Hub(space, lambda: _make_engine(space, name, what))
        elif name not in ("auto", hub.engine.name):
            choose(space, name)
        return hub


def _make_engine(space: AddressSpace, name: str, what: What) -> Engine:
    if what == "written":
        return PagemapScanEngine(space, *choose(space, name))
    if name != "auto":
        raise InvalidArgument(f'what="accessed" has one engine of its own, not {name!r}', hint='leave engine="auto"')
    return AccessedEngine(space)


def drop_if_idle(hub: Hub) -> None:
    """Close the hub's descriptors once nothing is covered any more."""
    with _lock, hub.lock:
        hubs = _hubs.get(hub.space, {})
        if not hub.covers_anything() and hub in hubs.values():
            _hubs[hub.space] = {what: other for what, other in hubs.items() if other is not hub}
            hub.close()
