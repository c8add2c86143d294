"""Looks at a coverage whose hot pages are exempted: the policy of :mod:`.hot` between a hub and its engine."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgument
from ..ranges import Regions
from ..records import one_after_another
from ..units import format_count
from .base import Engine, Findings, Hot, Loss
from .extents import Extents
from .hot import HotPages


class Exempting:
    """What the readers of one coverage share under ``hot="exempt"``. Not for two threads at a time."""

    def __init__(self, extents: Extents, page_size: int):
        self._page_size = page_size
        self._extents = extents
        self._hot = HotPages(self._small(extents))
        self._asked: tuple[Extents, Regions, Extents] | None = None

    def _small(self, extents: Extents) -> Regions:
        """What may be exempted: a huge page could be as a whole only, and its fault costs little for each byte."""
        small = Extents(extent for extent in extents if extent.page_size == self._page_size)
        return small.pages(self._page_size)

    def follow(self, extents: Extents) -> None:
        """The coverage has these extents now."""
        if extents is not self._extents:
            self._extents = extents
            self._hot.follow(self._small(extents))

    @property
    def exempt(self) -> Regions:
        """What is left unprotected now, and named in every answer."""
        return self._hot.exempt

    def bar(self, pages: Regions) -> None:
        """More than one covers these pages, and not all may want it: they are exempt no longer."""
        self._hot.bar(pages)

    def protected(self, pages: Regions) -> Regions:
        """These are protected again by somebody else; returns those that were left unprotected."""
        return self._hot.protected(pages)

    def take(self, engine: Engine, extents: Extents, reader: object) -> Findings:
        """As :meth:`Engine.take`, and what is exempt is named too."""
        hot = self._hot
        unsure = hot.unprotected
        hot.begin()
        candidates = hot.candidates(reader)
        if candidates:
            # What is found hot now stays as it is, WRITTEN and unprotected.
            hot.exempt_those_in(engine.peek(extents.within(candidates)).written)
        findings = engine.take(self._not_exempt(extents))
        hot.done()
        # What was unprotected until now is named whole: whoever was told of it before may hold any older contents.
        return self._with_exempt(findings, extents, unsure)

    def peek(self, engine: Engine, extents: Extents) -> Findings:
        """As :meth:`Engine.peek`, and what is exempt is named too."""
        findings = engine.peek(self._not_exempt(extents))
        return self._with_exempt(findings, extents, self._hot.unprotected)

    def note(self, reader: object, answer: Regions) -> None:
        """What the reader was answered."""
        self._hot.note(reader, answer)

    def _not_exempt(self, extents: Extents) -> Extents:
        exempt = self._hot.exempt
        if not exempt:
            return extents
        if self._asked is None or self._asked[0] is not extents or self._asked[1] is not exempt:
            others = extents.pages(exempt.page_size) - exempt
            self._asked = extents, exempt, extents.within(others)
        return self._asked[2]

    def _with_exempt(self, findings: Findings, extents: Extents, unsure: Regions) -> Findings:
        exempt = self._hot.exempt
        written = _side_by_side(findings.written, exempt)
        if unsure is not exempt and unsure:
            written |= unsure
        return Findings(written, _whole(findings.losses, extents), unsure or None)


def _whole(losses: list[Loss], extents: Extents) -> list[Loss]:
    """Losses of the extents themselves, where part of one was asked."""
    found: dict[int, Loss] = {}
    for loss in losses:
        at = int(np.searchsorted(extents.ends, np.uint64(loss.extent.start), "right"))
        found.setdefault(at, Loss(extents[at], loss.why))
    return list(found.values())


def _side_by_side(a: Regions, b: Regions) -> Regions:
    """The union of what does not overlap."""
    if not a or not b:
        return a or b
    records = one_after_another([a.to_records(), b.to_records()])
    order = np.argsort(records["start"], kind="stable")
    return Regions.merged(records[order], page_size=a.page_size, unknown=a.unknown)


def check_hot(hot: Hot) -> None:
    """Raise InvalidArgument if it is neither word."""
    if hot not in ("protect", "exempt"):
        raise InvalidArgument(f"hot = {hot!r}", hint='use "protect" (all pages alike) or "exempt" (not the hot ones)')


def hot_reason(exempted: Regions) -> str:
    """Why an answer with these pages may name too many; "" without any."""
    return f"{format_count(exempted.page_count, 'hot page')} left unprotected and always named" if exempted else ""
