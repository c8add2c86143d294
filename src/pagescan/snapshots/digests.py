"""The digests of pages: how it is known that a page has changed, that it is whole, and that a version is all there.

BLAKE2b of 16 bytes, of each page. A page of zeros has a digest of zeros instead, so that memory never touched needs
neither storage nor hashing. The digest of a buffer is the BLAKE2b of the digests of all its pages in order.
"""

from __future__ import annotations

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


def digest(*parts: bytes | memoryview) -> bytes:
    """BLAKE2b-128 of the parts, one after the other."""
    state = blake2b(digest_size=SIZE)
    for part in parts:
        state.update(part)
    return state.digest()


def page_digests(rows: Rows) -> Table:
    """The digest of each row (a page); zeros for a page of zeros."""
    table = empty_table(len(rows))
    used = np.flatnonzero(_nonzero(rows))
    view = table.view(np.uint8).reshape(len(rows), SIZE)
    found = b"".join([blake2b(rows[row], digest_size=SIZE).digest() for row in used.tolist()])
    view[used] = np.frombuffer(found, np.uint8).reshape(-1, SIZE)
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


def table_digest(table: Table) -> bytes:
    """The digest of a whole buffer from those of its pages."""
    return digest(np.ascontiguousarray(table).view(np.uint8).data)
