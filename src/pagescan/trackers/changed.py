"""The answer of ``changed()``: whether there is anything to take, and a key that says "nothing was written since"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Changed:
    """Whether memory was written to since its reader last took, and what one may remember it by.

    It is true if something was written to since the reader last took, and equal to a bool of that value.

    It is equal to another one of the same reader if, and only if, no look found anything written between the two calls
    that made them, whoever looked and whoever took meanwhile. So it is a key for what was computed from the memory:
    take the key first, then compute; if a later call gives an equal key, the result still holds. Keys of two readers,
    of two processes, or of two trackers one after the other are never equal, also after pickling.

    Hashed as a key, not as a bool: do not mix keys and bools in one dictionary.
    """

    written: bool
    _reader: bytes
    _epoch: int

    def __bool__(self) -> bool:
        return self.written

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Changed):
            return (self._reader, self._epoch) == (other._reader, other._epoch)
        return self.written == other if isinstance(other, bool) else NotImplemented

    def __hash__(self) -> int:
        return hash((self._reader, self._epoch))

    def __repr__(self) -> str:
        return f"<Changed: {'written to' if self.written else 'nothing written'}, {self._reader.hex()}-{self._epoch}>"
