"""Work done in threads a little ahead of whoever needs it, in order: hashing and compressing free the interpreter."""

from __future__ import annotations

import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A = TypeVar("A")
B = TypeVar("B")


def threads() -> ThreadPoolExecutor:
    """Threads for the processors that the caller leaves; none is started before there is work, and none outlives its
    block."""
    return ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) - 1)), "pagescan-store")


def mapped(
    function: Callable[[A], B], items: Iterator[A], pool: ThreadPoolExecutor, limit: int = 32
) -> Iterator[tuple[A, B]]:
    """Each item with ``function(item)``, in order; up to ``limit`` are begun before they are asked for."""
    begun = deque((item, pool.submit(function, item)) for item in itertools.islice(items, limit))
    for item in items:
        begun.append((item, pool.submit(function, item)))
        first, result = begun.popleft()
        yield first, result.result()
    for first, result in begun:
        yield first, result.result()


class Peekable(Generic[A]):
    """An iterator that is true as long as there is something left."""

    def __init__(self, items: Iterator[A]):
        self._items = items
        self._next: deque[A] = deque()

    def __bool__(self) -> bool:
        if not self._next:
            self._next.extend(itertools.islice(self._items, 1))
        return bool(self._next)

    def __iter__(self) -> Iterator[A]:
        return self

    def __next__(self) -> A:
        if not self:
            raise StopIteration
        return self._next.popleft()
