"""The arithmetic under :class:`~pagescan.ranges.Regions`: arrays of records in, arrays of records out.

*Canonical* records are sorted by start, none is empty, none overlap, and no two that touch have equal categories.
Everything works on whole arrays; an array that needs no change is returned itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import InvalidArgument
from .units import format_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    _Inside = tuple[NDArray[np.bool_], NDArray[np.uint64]]

#: One region: ``start`` and ``end`` (exclusive) are addresses in bytes. The 24 bytes of the kernel's ``struct
#: page_region`` (``include/uapi/linux/fs.h``), so that an answer of the kernel is a value without a copy.
REGION_DTYPE = np.dtype([("start", np.uint64), ("end", np.uint64), ("categories", np.uint64)])
#: No records at all.
NOTHING = np.zeros(0, dtype=REGION_DTYPE)
NOTHING.setflags(write=False)

#: The largest end. The byte before it is the last that can be named: an end of 2**64 is no 64-bit number.
MAX_ADDRESS = (1 << 64) - 1


class Answer:
    """One or more regions as the kernel wrote them, which nobody has looked at.

    Args:
        memory: a buffer that begins with them.
        count: how many.
    """

    __slots__ = ("_arrays", "_memory", "count")

    def __init__(self, memory: bytearray | memoryview, count: int):
        self._memory = memory
        #: The array of the memory, once it was asked for (one of several, if threads asked at the same time).
        self._arrays: list[NDArray[np.void]] = []
        self.count = count

    @classmethod
    def joined(cls, answers: Sequence[Answer]) -> Answer:
        """One after another, copied."""
        return Answer(bytearray().join(answer._used() for answer in answers), sum(answer.count for answer in answers))

    def _used(self) -> bytearray | memoryview:
        return self._memory[: self.count * REGION_DTYPE.itemsize]

    def raw(self) -> NDArray[np.void]:
        """The regions as an array, uncopied."""
        if not self._arrays:
            # An array of its own (its base is no array), so that views of it keep it alive, and it alone.
            self._arrays.append(np.frombuffer(self._memory, REGION_DTYPE, self.count))
        return self._arrays[0]

    def to_records(self) -> NDArray[np.void]:
        """The regions in canonical form, read-only."""
        records = join_equal(self.raw()).view()
        records.setflags(write=False)
        return records

    def __length_hint__(self) -> int:
        return self.count


def either(a: NDArray[np.void], b: NDArray[np.void]) -> NDArray[np.void]:
    """``a | b`` of canonical records."""
    if not len(a) or not len(b):
        return a if len(a) else b
    start, end, (in_a, of_a), (in_b, of_b) = _cut(a, b)
    # False is 0, True is 1.
    return _pieces(start, end, of_a * in_a | of_b * in_b, in_a | in_b)


def both(a: NDArray[np.void], b: NDArray[np.void]) -> NDArray[np.void]:
    """``a & b`` of canonical records: the pieces of ``a`` that ``b`` covers too."""
    # A few searches in the longer, rather than a sort of both: one of the two is often short.
    starts, ends = np.ascontiguousarray(b["start"]), np.ascontiguousarray(b["end"])
    first = np.searchsorted(ends, a["start"], "right")
    counts = np.searchsorted(starts, a["end"], "left") - first
    of_a = np.repeat(np.arange(len(a)), counts)
    of_b = np.arange(len(of_a)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    pieces = np.empty(len(of_a), REGION_DTYPE)
    pieces["start"] = np.maximum(a["start"][of_a], starts[of_b])
    pieces["end"] = np.minimum(a["end"][of_a], ends[of_b])
    pieces["categories"] = a["categories"][of_a]
    return join_equal(pieces)


def without(a: NDArray[np.void], b: NDArray[np.void]) -> NDArray[np.void]:
    """``a - b`` of canonical records."""
    if not len(a) or not len(b):
        return a
    start, end, (in_a, of_a), (in_b, _) = _cut(a, b)
    return _pieces(start, end, of_a, in_a & ~in_b)


def _cut(a: NDArray[np.void], b: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], _Inside, _Inside]:
    """The pieces between neighbouring edges of both (neither may be empty).

    Returns their starts and ends and, for each operand, whether it covers a piece and with which categories. Every
    region is a run of whole pieces.
    """
    edges = ascending(np.concatenate([a["start"], a["end"], b["start"], b["end"]]))
    start = edges[:-1]
    return start, edges[1:], _inside(a, start), _inside(b, start)


def ascending(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted, each once; as numpy.unique, but the stable sort makes use of runs that ascend already."""
    values = np.sort(values, kind="stable")
    first, _ = runs(values[1:] != values[:-1], len(values))
    return values[first]


def _inside(records: NDArray[np.void], addresses: NDArray[np.uint64]) -> _Inside:
    """Whether the records cover each address; and the categories there (anything where not covered)."""
    index = np.searchsorted(np.ascontiguousarray(records["start"]), addresses, "right") - 1
    before = index < 0
    index[before] = 0
    return (addresses < records["end"][index]) & ~before, records["categories"][index]


def _pieces(
    start: NDArray[np.uint64], end: NDArray[np.uint64], categories: NDArray[np.uint64], keep: NDArray[np.bool_]
) -> NDArray[np.void]:
    """The kept pieces as canonical records."""
    records = np.empty(int(keep.sum()), REGION_DTYPE)
    records["start"], records["end"], records["categories"] = start[keep], end[keep], categories[keep]
    return join_equal(records)


def one_after_another(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """The parts as one array, copied as bytes.

    ``numpy.concatenate`` works out the common type of structures in Python (14 microseconds a part), and copies them
    field by field.
    """
    return np.frombuffer(bytearray().join(parts), REGION_DTYPE)  # type: ignore[arg-type]  # arrays are buffers


def unite(layers: list[NDArray[np.void]]) -> NDArray[np.void]:
    """``|`` of them all, pair by pair, so that each byte of records is handled log2(layers) times."""
    while len(layers) > 1:
        pairs = zip(layers[::2], layers[1::2], strict=False)
        layers = [either(a, b) for a, b in pairs] + layers[len(layers) // 2 * 2 :]
    return layers[0] if layers else np.empty(0, REGION_DTYPE)


def join_equal(records: NDArray[np.void]) -> NDArray[np.void]:
    """Joins neighbours that touch and have equal categories; the same array if there are none."""
    joined = records["end"][:-1] == records["start"][1:]
    if not np.count_nonzero(joined):  # cheaper than any(), and on the path of every look
        return records
    joined &= records["categories"][:-1] == records["categories"][1:]
    return _join(records, ~joined) if joined.any() else records


def equal(a: NDArray[np.void], b: NDArray[np.void]) -> bool:
    """Whether both hold the same. (numpy compares structures field by field.)"""
    if len(a) != len(b):
        return False
    if a.flags.c_contiguous and b.flags.c_contiguous:
        return bool((a.view(np.uint64) == b.view(np.uint64)).all())
    return a.tobytes() == b.tobytes()


def equal_answers(a: Answer | None, b: Answer | None) -> bool:
    """Whether both are there and tell the same in the same words; then neither need be put into canonical form."""
    return a is not None and b is not None and equal(a.raw(), b.raw())


def cover(records: NDArray[np.void]) -> NDArray[np.void]:
    """Joins all that overlap or touch, whatever their order; the categories must all be equal."""
    records = records[np.argsort(records["start"], kind="stable")]
    records["end"] = np.maximum.accumulate(records["end"])
    return _join(records, records["start"][1:] > records["end"][:-1])


def _join(records: NDArray[np.void], apart: NDArray[np.bool_]) -> NDArray[np.void]:
    """One record for each run; ``apart`` says for all but the first whether a new run begins there."""
    first, last = runs(apart, len(records))
    joined = records[first]
    joined["end"] = records["end"][last]
    return joined


def runs(apart: NDArray[np.bool_], length: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the first and the last of each run; ``apart`` is one shorter, or empty where ``length`` is 0."""
    return np.append(True, apart)[:length], np.append(apart, True)[:length]


def to_records(records: ArrayLike) -> NDArray[np.void]:
    """A copy as REGION_DTYPE, no record ending before it starts."""
    if isinstance(records, np.ndarray) and records.dtype != REGION_DTYPE and records.size:
        raise InvalidArgument(
            f"regions cannot be made from an array of {records.dtype}", hint="its dtype must be REGION_DTYPE"
        )
    rows = records if isinstance(records, np.ndarray) else [tuple(row) for row in records]  # type: ignore[union-attr, arg-type]
    try:
        result = np.array(rows, dtype=REGION_DTYPE)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"regions must be (start, end, categories), each from 0 to {MAX_ADDRESS:#x}: {error}"
        ) from error
    if result.ndim != 1:
        raise InvalidArgument(f"regions are a sequence of one dimension, not {result.ndim}")
    if (wrong := result[result["end"] < result["start"]]).size:
        raise InvalidArgument(f"the region {_show(wrong[0])} ends before it starts")
    return result


def in_order(records: NDArray[np.void]) -> NDArray[np.void]:
    """Sorted by start; none may be empty and none may overlap."""
    if (wrong := records[records["end"] == records["start"]]).size:
        raise InvalidArgument(f"the region {_show(wrong[0])} is empty", hint="Regions.from_pairs leaves such out")
    records = records[np.argsort(records["start"], kind="stable")]
    if (at := np.flatnonzero(records["end"][:-1] > records["start"][1:])).size:
        first, second = _show(records[at[0]]), _show(records[at[0] + 1])
        raise InvalidArgument(f"the regions {first} and {second} overlap", hint="Regions.from_pairs unites such")
    return records


def drop_empty(records: NDArray[np.void]) -> NDArray[np.void]:
    """Those that hold at least one byte."""
    return records[records["end"] > records["start"]]


def _show(record: np.void) -> str:
    return format_range(int(record["start"]), int(record["end"]))
