"""What every report is, what one may wish of it, and what it is shown on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .material import Material

GBIT = 1_000_000_000 // 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may be chosen; each report takes what concerns it.

    Attributes:
        rows, columns: the most cells of the heat map in each direction; None: what suits the place it is shown.
        limit: how many regions.
        windows_ns: lengths of the windows of the working set; empty: chosen by the recording's length.
        bandwidths: bytes per second to estimate a migration with.
        downtime_ns: how long the process may stand still for it.
        memory_bytes: what its first round sends; None: the resident memory when the recording began.
    """

    rows: int | None = None
    columns: int | None = None
    limit: int = 20
    windows_ns: tuple[int, ...] = ()
    bandwidths: tuple[int, ...] = (GBIT, 10 * GBIT, 25 * GBIT, 100 * GBIT)
    downtime_ns: int = 300_000_000
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Screen:
    """What text is written to.

    Attributes:
        width: columns of characters.
        height: lines.
        colour: whether escape sequences for colours are understood and wanted.
        blocks: whether block characters can be written; otherwise ASCII has to do.
    """

    width: int = 80
    height: int = 24
    colour: bool = False
    blocks: bool = True


class Table(NamedTuple):
    """A table for machines: integers in base units, addresses as hexadecimal strings, None for what is not known."""

    header: Sequence[str]
    rows: Iterable[Sequence[Any]]


class Report(Protocol):
    """One report on a recording: a value."""

    @classmethod
    def of(cls, material: Material, wishes: Wishes) -> Self:
        """The report. Raises InvalidArgument for wishes that cannot be."""

    def document(self) -> dict[str, Any]:
        """What ``--json`` has beside the recording itself."""

    def table(self) -> Table:
        """What ``--csv`` has."""

    def lines(self, screen: Screen) -> list[str]:
        """The report as text, no line longer than the screen is wide."""
