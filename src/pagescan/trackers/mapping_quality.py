"""How good answers about each mapping of a process are, whatever was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .written import Quality

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..abi import Mapping
    from ..kernel.procfs import SmapsEntry
    from ..ranges import Regions


@dataclass(frozen=True, slots=True)
class MappingQuality:
    """What to expect of answers about one mapping.

    Attributes:
        mapping: it, as it is now.
        quality: the best that its answers can have; None if it is not tracked.
        reason: why not EXACT, or what EXACT does not say; "" if there is nothing to say.
    """

    mapping: Mapping
    quality: Quality | None
    reason: str = ""


def judge_mappings(
    entries: Iterable[SmapsEntry], covered: Regions, untracked: Sequence[tuple[Mapping, str]]
) -> list[MappingQuality]:
    """Those that are covered, or could have been, by address."""
    refused = {mapping.start: why for mapping, why in untracked}
    found = []
    for entry in entries:
        mapping = entry.mapping
        if covered.clip(mapping.start, mapping.end):
            found.append(_judge(entry, covered.page_size))
        elif mapping.start in refused:
            found.append(MappingQuality(mapping, None, refused[mapping.start]))
    return found


def _judge(entry: SmapsEntry, page_size: int) -> MappingQuality:
    mapping = entry.mapping
    if mapping.page_size > page_size:
        why = f"hugetlb memory is tracked by whole huge pages of {mapping.page_size:,} bytes"
        return MappingQuality(mapping, Quality.SUPERSET, why)
    if mapping.shared:
        why = "what others write to this memory, or to the file by write(2), is not seen"
        return MappingQuality(mapping, Quality.EXACT, why)
    holes = mapping.end - mapping.start - entry.rss - entry.swap
    if holes > 0 and entry.sizes.get("THPeligible"):
        why = "a first write to memory never touched may fill a whole huge page, and all of it is named then"
        return MappingQuality(mapping, Quality.SUPERSET, why)
    if mapping.inode:
        return MappingQuality(mapping, Quality.EXACT, "a page given back by MADV_DONTNEED is not seen")
    return MappingQuality(mapping, Quality.EXACT)
