"""Regions: many half-open ranges of addresses as one value, and the algebra of such values.

A :class:`Regions` is one numpy array of (start, end, categories), in *canonical form*: sorted by start, none empty,
none overlapping, and neighbours that touch and have equal categories joined. So two values that say the same of every
byte are equal. No Python object is made for a region unless one iterates or indexes.

The algebra is that of sets of bytes, each with its categories:

* ``a | b``: bytes of either; where both cover, the categories of both (OR).
* ``a & b``: bytes of both, with the categories that ``a`` gives them.
* ``a - b``: bytes of ``a`` that are not in ``b``, with the categories that ``a`` gives them.

Ranges need not be page-aligned and nothing is rounded, except where a method says so. ``unknown`` of a result is that
of both operands together; operands of different page sizes do not mix.

The module is pure: addresses are numbers here, and nobody's memory is read.
"""

from __future__ import annotations

import bisect
import operator
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import numpy as np

from .errors import InvalidArgument
from .location import Location as Location
from .location import locate as locate
from .query import Category, Query, category_names
from .records import (
    MAX_ADDRESS,
    NOTHING,
    Answer,
    ascending,
    both,
    cover,
    drop_empty,
    either,
    equal,
    equal_answers,
    in_order,
    join_equal,
    runs,
    to_records,
    unite,
    without,
)
from .records import REGION_DTYPE as REGION_DTYPE
from .units import format_count, format_range, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

_ITERATION_CHUNK = 4096
_NONE_UNKNOWN = Category(0)


class Region(NamedTuple):
    """One range of addresses, ``[start, end)`` in bytes, and what is known of its pages."""

    start: int
    end: int
    categories: Category = Category(0)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def __str__(self) -> str:
        names = ",".join(category_names(self.categories))
        return f"{format_range(self.start, self.end)} ({format_size(self.size)}){names and ' ' + names}"


class Regions:
    """An immutable set of address ranges with categories; see the module's text for the algebra.

    Args:
        records: array of :data:`REGION_DTYPE`, or a sequence of (start, end, categories), in any order; copied.
            None may be empty and none may overlap (:meth:`from_pairs` allows both).
        page_size: bytes of a page, a power of two; for :meth:`pages` and :attr:`page_count`.
        unknown: categories that were asked for and that the kernel does not know: unknown, rather than absent.

    Raises InvalidArgument, which names the first region that is wrong.

    A value is true if it has a region. Equality, also of a subclass, compares regions, page size and unknown.
    """

    __slots__ = ("_page_size", "_records", "_source", "_unknown")

    _records: NDArray[np.void]  # of a deferred value not there until it is first asked for
    _page_size: int
    _unknown: Category
    _source: Regions | Answer | None

    def __init__(self, records: ArrayLike = (), *, page_size: int = 4096, unknown: int = Category(0)):
        _check_page_size(page_size)
        self._take(join_equal(in_order(to_records(records))), page_size, unknown)

    def _take(self, records: NDArray[np.void], page_size: int, unknown: int) -> None:
        if records.flags.writeable:
            records = records.view()
            records.setflags(write=False)
        self._records = records
        self._source = None
        self._page_size = page_size
        self._unknown = Category(unknown) if unknown else _NONE_UNKNOWN

    @classmethod
    def trusted(cls, records: NDArray[np.void], *, page_size: int = 4096, unknown: int = Category(0)) -> Self:
        """For records that are canonical already. Nothing is checked and nothing copied.

        The value views the array: whoever calls must not write to it afterwards.
        """
        self = cls.__new__(cls)
        self._take(records, page_size, unknown)
        return self

    @classmethod
    def like(cls, other: Regions) -> Self:
        """The same value, as this class: for subclasses, which then set attributes of their own."""
        self = cls.__new__(cls)
        self._source, self._page_size, self._unknown = other, other._page_size, other._unknown
        return self

    @classmethod
    def deferred(cls, answer: Answer, *, page_size: int, unknown: Category) -> Self:
        """For an answer of the kernel that nobody has looked at: put into canonical form when somebody does.

        Right after a long look that is dear: by then the processor has cached other things than the interpreter.
        """
        self = cls.__new__(cls)
        self._source, self._page_size, self._unknown = answer, page_size, unknown
        return self

    if not TYPE_CHECKING:  # for the type checker every attribute is declared

        def __getattr__(self, name: str) -> Any:
            """Called for what is not there: the records of a deferred value."""
            if name != "_records":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            records = self._source.to_records()
            self._records = records
            return records

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """For copies and pickles: with the records, and without what they came from."""
        len(self._records)
        state: Any = object.__getstate__(self)
        return None, {**state[1], "_source": None}

    @classmethod
    def merged(cls, records: NDArray[np.void], *, page_size: int = 4096, unknown: int = Category(0)) -> Self:
        """For records that are sorted, none empty and none overlapping: joins neighbours that touch and are equal.

        Without such neighbours the array is taken as in :meth:`trusted`, uncopied.
        """
        return cls.trusted(join_equal(records), page_size=page_size, unknown=unknown)

    @classmethod
    def empty(cls, *, page_size: int = 4096, unknown: int = Category(0)) -> Self:
        """No region at all."""
        return cls.trusted(NOTHING, page_size=page_size, unknown=unknown)

    @classmethod
    def span(cls, start: int, end: int, categories: int = 0, *, page_size: int = 4096) -> Self:
        """The one range [start, end); empty if start equals end."""
        _check_page_size(page_size)
        return cls.trusted(drop_empty(to_records([(start, end, categories)])), page_size=page_size)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, ...]], *, page_size: int = 4096) -> Self:
        """From (start, end) or (start, end, categories), in any order.

        Ranges may overlap, and then unite as under ``|``; those with start equal to end are left out.
        """
        _check_page_size(page_size)
        records = drop_empty(to_records([pair if len(pair) == 3 else (*pair, 0) for pair in pairs]))
        values = np.unique(records["categories"])
        layers = [cover(records[records["categories"] == value]) for value in values]
        return cls.trusted(unite(layers), page_size=page_size)

    @classmethod
    def from_pages(cls, addresses: ArrayLike, categories: int = 0, *, page_size: int = 4096) -> Self:
        """The pages that begin at these addresses, in any order, also named twice.

        Raises InvalidArgument for an address at which no page begins.
        """
        _check_page_size(page_size)
        pages = ascending(_to_addresses(addresses))
        if (off := pages[pages & np.uint64(page_size - 1) != 0]).size:
            raise InvalidArgument(f"no page of {format_size(page_size)} begins at {int(off[0]):#x}")
        if pages.size and int(pages[-1]) + page_size > MAX_ADDRESS:
            raise InvalidArgument(f"the page at {int(pages[-1]):#x} ends beyond 64-bit addresses")
        records = np.empty(len(pages), REGION_DTYPE)
        records["start"], records["end"], records["categories"] = pages, pages + np.uint64(page_size), int(categories)
        return cls.merged(records, page_size=page_size)

    @classmethod
    def union(cls, parts: Iterable[Regions], *, page_size: int = 4096) -> Self:
        """All of them, as ``|`` but faster for many. ``page_size`` is that of the answer if there are none."""
        values = list(parts)
        for value in values[1:]:
            values[0]._check_same_pages(value)
        unknown = Category(0)
        for value in values:
            unknown |= value._unknown
        page_size = values[0]._page_size if values else page_size
        return cls.trusted(unite([value._records for value in values]), page_size=page_size, unknown=unknown)

    # What it holds

    @property
    def starts(self) -> NDArray[np.uint64]:
        """Addresses of the first bytes, ascending; a read-only view."""
        return self._records["start"]

    @property
    def ends(self) -> NDArray[np.uint64]:
        """Addresses one past the last bytes, ascending; a read-only view."""
        return self._records["end"]

    @property
    def categories(self) -> NDArray[np.uint64]:
        """Bits of :class:`Category`, one number a region; a read-only view."""
        return self._records["categories"]

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._page_size

    @property
    def unknown(self) -> Category:
        """Categories that were asked for and that the kernel does not know: unknown, rather than absent."""
        return self._unknown

    @property
    def byte_count(self) -> int:
        """Bytes covered."""
        answer = _answer(self)  # the sum is the same whether neighbours are joined or not
        records = self._records if answer is None else answer.raw()
        return int((records["end"] - records["start"]).sum())

    @property
    def page_count(self) -> int:
        """Pages of which at least one byte is covered, each counted once."""
        first, last = self._page_numbers()
        return int((last - first).sum()) + len(self) - int((first[1:] == last[:-1]).sum())

    def pages(self) -> NDArray[np.uint64]:
        """The addresses of all pages of which at least one byte is covered, ascending, each once.

        Takes 8 bytes of memory for every page.
        """
        first, last = self._page_numbers()
        # A page that two regions share is counted with the earlier one.
        first[1:] += first[1:] == last[:-1]
        counts = (last + np.uint64(1) - first).astype(np.int64)
        if int(counts.sum()) == len(counts) and (not len(counts) or int(counts.min()) == 1):
            return first * np.uint64(self._page_size)  # isolated pages, as random writes leave them
        offsets = np.cumsum(counts) - counts
        numbers = np.repeat(first - offsets.astype(np.uint64), counts)
        numbers += np.arange(len(numbers), dtype=np.uint64)
        return numbers * np.uint64(self._page_size)

    def _page_numbers(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The numbers of each region's first and last page."""
        shift = np.uint64(self._page_size.bit_length() - 1)
        return self.starts >> shift, (self.ends - np.uint64(1)) >> shift

    def to_records(self) -> NDArray[np.void]:
        """The array itself (:data:`REGION_DTYPE`), read-only and uncopied."""
        return self._records

    def __len__(self) -> int:
        return len(self._records)

    def __bool__(self) -> bool:
        return bool(self._source) if self._source is not None else len(self._records) > 0

    def __length_hint__(self) -> int:
        """How many regions there are at most; a deferred value stays so."""
        return len(self._records) if self._source is None else self._source.__length_hint__()

    def __iter__(self) -> Iterator[Region]:
        for at in range(0, len(self._records), _ITERATION_CHUNK):
            for start, end, categories in self._records[at : at + _ITERATION_CHUNK].tolist():
                yield Region(start, end, Category(categories))

    @overload
    def __getitem__(self, index: int) -> Region: ...
    @overload
    def __getitem__(self, index: slice) -> Regions: ...
    def __getitem__(self, index: int | slice) -> Region | Regions:
        """The region at an index, or the regions of a slice (its step must be positive)."""
        if not isinstance(index, slice):
            start, end, categories = self._records[operator.index(index)].item()
            return Region(start, end, Category(categories))
        if index.step is not None and index.step < 0:
            raise InvalidArgument("regions are kept in ascending order", hint="use reversed(regions)")
        return self._like(self._records[index])

    def __contains__(self, address: object) -> bool:
        """Whether the byte at this address is covered."""
        at = operator.index(address)  # type: ignore[arg-type]
        if not 0 <= at < MAX_ADDRESS:
            return False
        found = bisect.bisect_right(self.starts, np.uint64(at))
        return found > 0 and at < int(self.ends[found - 1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Regions):
            return NotImplemented
        same = self._page_size == other._page_size and self._unknown == other._unknown
        return same and (equal_answers(_answer(self), _answer(other)) or equal(self._records, other._records))

    def __hash__(self) -> int:
        return hash((self._page_size, self._unknown, self._records.tobytes()))

    def __repr__(self) -> str:
        about = f"{format_count(len(self), 'region')}, {format_count(self.page_count, 'page')}"
        about += f", {format_size(self.byte_count)}"
        if self:
            about += f" in {format_range(int(self.starts[0]), int(self.ends[-1]))}"
        return f"<{type(self).__name__}: {about}>"

    # The algebra

    def __or__(self, other: Regions) -> Regions:
        if not isinstance(other, Regions):
            return NotImplemented
        return self._combined(other, either(self._records, other._records))

    def __and__(self, other: Regions) -> Regions:
        if not isinstance(other, Regions):
            return NotImplemented
        return self._combined(other, both(self._records, other._records))

    def __sub__(self, other: Regions) -> Regions:
        if not isinstance(other, Regions):
            return NotImplemented
        return self._combined(other, without(self._records, other._records))

    def _combined(self, other: Regions, records: NDArray[np.void]) -> Regions:
        self._check_same_pages(other)
        return Regions.trusted(records, page_size=self._page_size, unknown=self._unknown | other._unknown)

    def _check_same_pages(self, other: Regions) -> None:
        if self._page_size != other._page_size:
            raise InvalidArgument(
                f"regions in pages of {format_size(self._page_size)} and of {format_size(other._page_size)} do not mix",
                hint="make one anew: Regions(regions.to_records(), page_size=...)",
            )

    def _like(self, records: NDArray[np.void]) -> Regions:
        return Regions.trusted(records, page_size=self._page_size, unknown=self._unknown)

    def lies_in(self, start: int, end: int) -> bool:
        """Whether all of it lies in [start, end)."""
        records = self._records
        return not len(records) or bool(records["start"][0] >= start and records["end"][-1] <= end)

    def clip(self, start: int, end: int) -> Regions:
        """What lies in [start, end), cut to the byte."""
        if end < start:
            raise InvalidArgument(f"the range {format_range(start, end)} ends before it starts")
        low = np.uint64(min(max(int(start), 0), MAX_ADDRESS))
        high = np.uint64(min(max(int(end), 0), MAX_ADDRESS))
        # bisect looks at a few; numpy would first copy all of a field, as it lies apart.
        records = self._records[bisect.bisect_right(self.ends, low) : bisect.bisect_left(self.starts, high)]
        if low == high or not len(records):
            return self._like(records[:0])
        if records["start"][0] < low or records["end"][-1] > high:
            records = records.copy()
            records["start"][0] = max(records["start"][0], low)
            records["end"][-1] = min(records["end"][-1], high)
        return self._like(records)

    def with_categories(self, categories: int) -> Regions:
        """The same bytes, all with these categories."""
        records = self._records.copy()
        records["categories"] = int(categories)
        return self._like(join_equal(records))

    def masked(self, categories: int) -> Regions:
        """The same bytes, with no other categories than these."""
        records = self._records.copy()
        records["categories"] &= np.uint64(int(categories) & MAX_ADDRESS)
        return self._like(join_equal(records))

    def where(self, required: int = 0, anyof: int = 0, excluded: int = 0) -> Regions:
        """The regions that have all of ``required``, any of ``anyof`` (if not 0) and none of ``excluded``."""
        query = Query(required=int(required), anyof=int(anyof), excluded=int(excluded))
        return self._like(self._records[query.matches(self.categories)])

    # In elements of a buffer

    def within(self, buffer: Any) -> list[slice]:
        """Slices of the buffer's flattened elements that the regions touch.

        Rounded out to whole elements, cut to the buffer, ascending, and joined where they meet. ``buffer`` is
        anything that :func:`locate` finds; of an array of several dimensions, slice ``array.reshape(-1)``.
        """
        return self.slices_in(*locate(buffer))

    def slices_in(self, address: int, nbytes: int, itemsize: int = 1) -> list[slice]:
        """:meth:`within` for elements of ``itemsize`` bytes in the ``nbytes`` bytes from ``address``."""
        low, high = self.bounds_in(address, nbytes, itemsize).T.tolist()
        return list(map(slice, low, high))

    def bounds_in(self, address: int, nbytes: int, itemsize: int = 1) -> NDArray[np.int64]:
        """The slices of :meth:`slices_in` as one array, shape (n, 2): first element, and one past the last."""
        if nbytes == 0:
            return np.empty((0, 2), np.int64)
        if itemsize < 1 or nbytes < 0 or nbytes % itemsize:
            raise InvalidArgument(f"{nbytes} bytes are no whole number of elements of {itemsize} bytes")
        part = self.clip(address, address + nbytes)
        if not part:
            return np.empty((0, 2), np.int64)
        size = np.uint64(itemsize)
        low = ((part.starts - np.uint64(address)) // size).astype(np.int64)
        # The last byte's element, so that no sum can overflow.
        high = ((part.ends - np.uint64(address + 1)) // size).astype(np.int64) + 1
        first, last = runs(low[1:] > high[:-1], len(low))
        return np.stack([low[first], high[last]], axis=1)


def _answer(value: Regions) -> Answer | None:
    """What a deferred value is made of; None of another."""
    source = value._source
    while isinstance(source, Regions):
        source = source._source
    return source


def _to_addresses(values: ArrayLike) -> NDArray[np.uint64]:
    # np.array([2**63, 1]) would be an array of floats: integers go straight to uint64.
    if isinstance(values, np.ndarray) and values.dtype != np.uint64:
        if values.dtype.kind not in "iu" and values.size:
            raise InvalidArgument(f"addresses are integers, not {values.dtype}")
        values = values.tolist() if values.dtype.kind == "i" and (values < 0).any() else values
    try:
        return np.asarray(values, dtype=np.uint64).reshape(-1)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidArgument(f"addresses are integers from 0 to {MAX_ADDRESS:#x}: {error}") from error


def _check_page_size(page_size: int) -> None:
    if page_size < 1 or page_size & (page_size - 1):
        raise InvalidArgument(f"a page size is a power of two, not {page_size}")
