"""This process: its address space and its one open pagemap, made on first use and dropped in forked children.

A forked child that kept the pagemap descriptor would scan its *parent*: the descriptor is bound to the address space
it was opened for, and protecting again through it would clear the parent's written bits (measured on 6.18).
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING, Protocol

from ..errors import KernelCannot

if TYPE_CHECKING:
    from ..abi import AddressSpace, Pagemap


class ClosedInChild(Protocol):
    """Something that holds descriptors of this process's address space."""

    def close_in_child(self) -> None:
        """Close them without touching the parent's state. Called in a forked child."""


_space: AddressSpace | None = None
_pagemap: Pagemap | None = None
_holders: weakref.WeakSet[ClosedInChild] = weakref.WeakSet()


def current_space() -> AddressSpace:
    """The address space of this process. Raises KernelCannot where there is no Linux."""
    global _space
    if _space is None:
        try:
            from ..kernel.space import LinuxSpace
        except ImportError as error:
            raise KernelCannot(
                f"pages of this process can be looked at on Linux only ({error})",
                hint='the model runs everywhere: pagescan.model.Machine(), or engine="model"',
            ) from None
        _space = LinuxSpace.current()
    return _space


def is_current(space: AddressSpace) -> bool:
    """Whether ``space`` is what :func:`current_space` returned."""
    return space is _space


def current_pagemap() -> Pagemap:
    """The pagemap of this process, shared by everybody in it; never close it."""
    global _pagemap
    if _pagemap is None:
        _pagemap = current_space().open_pagemap()
        atexit.register(_pagemap.close)
    return _pagemap


def close_in_children(holder: ClosedInChild) -> None:
    """Have ``holder.close_in_child()`` called in every forked child, for as long as the holder lives."""
    _holders.add(holder)


def _after_fork_in_child() -> None:
    global _space, _pagemap
    pagemap, _pagemap, _space = _pagemap, None, None
    if pagemap is not None:
        pagemap.close()
    for holder in list(_holders):
        holder.close_in_child()
    _holders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
