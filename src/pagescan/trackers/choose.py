"""Which engine answers: proved by a round trip, forced by name, or explained if none can."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from ..errors import InvalidArgument, KernelCannot
from .hub import Hub
from .pagemap_scan import PagemapScanEngine

if TYPE_CHECKING:
    from ..abi import AddressSpace

#: The engines there are.
ENGINES = ("pagemap-scan", "model")

_lock = threading.Lock()
_hubs: weakref.WeakKeyDictionary[AddressSpace, Hub] = weakref.WeakKeyDictionary()


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


def hub_of(space: AddressSpace, name: str) -> Hub:
    """The hub that all trackers of this address space share; made on first use."""
    with _lock:
        hub = _hubs.get(space)
        if hub is None or hub.in_child or hub.pid != os.getpid():
            engine, why = choose(space, name)
            hub = _hubs[space] = Hub(space, lambda: PagemapScanEngine(space, engine, why))
        elif name not in ("auto", hub.engine.name):
            choose(space, name)
        return hub


def drop_if_idle(hub: Hub) -> None:
    """Close the hub's descriptors once nothing is covered any more."""
    with _lock, hub.lock:
        if not hub.covers_anything() and _hubs.get(hub.space) is hub:
            del _hubs[hub.space]
            hub.close()
