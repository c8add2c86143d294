"""The digests of pages: how it is known that a page has changed, that it is whole, and that a version is all there.

BLAKE2b of 16 bytes, of each page. A page of zeros has a digest of zeros instead, so that memory never touched needs
neither storage nor hashing. The digest of a buffer is a sum over those of its pages, each weighted by its number: what
a commit changes of it follows from the pages that changed.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of a digest: by accident, two of 2**64 pages collide.
SIZE = 16
#: A digest as an element of an array, compared as a whole.
DTYPE = np.dtype([("low", "<u8"), ("high", "<u8")])

if TYPE_CHECKING:
    #: Digests, one a page.
    Table = NDArray[np.void]
    #: Pages, one a row.
    Rows = NDArray[np.uint8]
    #: Two numbers, modulo 2**64.
    Sum = NDArray[np.uint64]


def digest(*parts: bytes | memoryview) -> bytes:
    """BLAKE2b-128 of the parts, one after the other."""
    state = blake2b(digest_size=SIZE)
    for part in parts:
        state.update(part)
    return state.digest()


_hashed = partial(blake2b, digest_size=SIZE)


def page_digests(rows: Rows) -> Table:
    """The digest of each row (a page); zeros for a page of zeros."""
    table = empty_table(len(rows))
    used = _nonzero(rows)
    # Each page lets go of the interpreter lock and takes it back: the less is done under it, the fewer threads wait.
    states = map(_hashed, list(rows if used.all() else rows[used]))
    table[used] = np.frombuffer(b"".join([state.digest() for state in states]), DTYPE)
    return table


def _nonzero(rows: Rows) -> NDArray[np.bool_]:
    """Which rows have a byte that is not 0. The first words decide it for nearly all of them."""
    words: NDArray[Any] = rows.view(np.uint64) if rows.shape[1] % 8 == 0 else rows
    found: NDArray[np.bool_] = np.any(words[:, :8], axis=1)
    rest = np.flatnonzero(~found)
    found[rest] = np.any(words[rest], axis=1)
    return found


def empty_table(pages: int) -> Table:
    """The digests of so many pages of zeros."""
    return np.zeros(pages, DTYPE)


def is_zero(table: Table) -> NDArray[np.bool_]:
    """Which digests are those of pages of zeros."""
    zero: NDArray[np.bool_] = (table["low"] == 0) & (table["high"] == 0)
    return zero


def differ(one: Table, other: Table) -> NDArray[np.bool_]:
    """Where two tables of equal length differ."""
    different: NDArray[np.bool_] = (one["low"] != other["low"]) | (one["high"] != other["high"])
    return different


def weighted_sum(pages: NDArray[np.int64], table: Table) -> Sum:
    """What pages of these numbers and digests add to the sum of their buffer: pages of zeros add nothing."""
    weight = (2 * pages + 1).astype(np.uint64)
    return np.array([np.sum(weight * table["low"]), np.sum(weight * table["high"])], np.uint64)


def table_sum(table: Table) -> Sum:
    """The sum of a whole buffer, from the digests of its pages."""
    return weighted_sum(np.arange(len(table)), table)


def buffer_digest(total: Sum) -> str:
    """The digest of a buffer whose pages have this sum, in hexadecimal digits."""
    return total.astype("<u8").tobytes().hex()
