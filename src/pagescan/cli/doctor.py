"""``pagescan doctor``: what works here."""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import KernelCannot, PagescanError
from ..units import format_size
from .command import ExitCode
from .output import use_colour, width_of, write_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ..kernel.facts import Capabilities
    from ..kernel.findings import BugFinding, Finding
    from ..trackers.choose import Verdict

SCHEMA_VERSION = 1
#: Lines longer than this are hard to read.
_READABLE = 110
_COLOURS = {"works": 32, "absent": 32, "missing": 31, "refused": 33, "unknown": 33, "shown": 33}
_DIM = 2


class Doctor:
    """Show what works on this machine, proved by trying it.

    Each line was tried: pages were mapped, one thing was done to one of them, and the kernel was asked. For what does
    not work it says why and, where there is one, the one command that mends it. Then come the known bugs of the
    kernel's interface, which of them this kernel shows and what pagescan does about each; and the engines, the best
    first: engine="auto" takes the first that works.

    Nothing of the machine is changed. What could crash an affected kernel is not tried.

    Exit codes: 0 the kernel finds written pages, 4 only a permission is missing, 5 this kernel cannot. (With 4 and 5
    tracking may still work, by comparing contents.)
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON document (docs/commands/doctor.md)")

    def run(self, options: argparse.Namespace) -> int:
        if sys.platform != "linux":
            raise KernelCannot(
                f"there is no PAGEMAP_SCAN on {sys.platform}: it is Linux's", hint='engine="model" runs everywhere'
            )
        from ..kernel.facts import probe_machine

        capabilities = probe_machine()
        engines = survey_engines()
        if options.json:
            write_json("doctor", SCHEMA_VERSION, to_document(capabilities, engines))
        else:
            width = min(width_of(sys.stdout), _READABLE)
            for line in Report(width, use_colour(sys.stdout)).lines(capabilities, engines):
                print(line)
        return exit_code(capabilities)


def exit_code(capabilities: Capabilities) -> ExitCode:
    """0 if tracking works, 4 if only a permission is missing, else 5."""
    codes = {"works": ExitCode.DONE, "refused": ExitCode.NO_PERMISSION}
    return codes.get(capabilities["tracking"].state, ExitCode.KERNEL_CANNOT)


def survey_engines() -> list[Verdict]:
    """Ask the library, as a tracker does: every engine on ordinary memory of this process, the best first."""
    from ..process.current import current_space
    from ..trackers.choose import Verdict, survey

    try:
        return survey(current_space())
    except PagescanError as error:  # PAGESCAN_ENGINE names none
        return [Verdict(os.environ.get("PAGESCAN_ENGINE", "auto"), False, error.message, error.hint)]


def to_document(capabilities: Capabilities, engines: list[Verdict]) -> dict[str, Any]:
    """The content of the JSON document, described field by field in ``docs/commands/doctor.md``."""
    taken = next((verdict for verdict in engines if verdict.works), None)
    best = engines[0]
    return {
        "machine": {
            "release": capabilities.release,
            "architecture": capabilities.architecture,
            "page_size": capabilities.page_size,
            "user": capabilities.user,
        },
        "tracking_works": capabilities["tracking"].state == "works",
        "engine": {
            "name": taken.name if taken else None,
            "why": taken.why if taken else best.why,
            "hint": None if taken is best else best.hint,
        },
        "engines": [asdict(verdict) for verdict in engines],
        "features": [_feature(finding) for finding in capabilities.findings],
        "bugs": [_bug(finding) for finding in capabilities.bugs],
    }


def _feature(finding: Finding) -> dict[str, Any]:
    fact, outcome = finding.fact, finding.outcome
    return {
        "key": fact.key,
        "group": fact.group,
        "title": fact.title,
        "about": fact.about,
        "since": fact.since or None,
        "source": fact.source or None,
        "state": outcome.state.value,
        "evidence": outcome.evidence or None,
        "cause": outcome.cause,
        "cure": outcome.cure,
    }


def _bug(finding: BugFinding) -> dict[str, Any]:
    bug = finding.bug
    return {
        "key": bug.key,
        "title": bug.title,
        "fixed": bug.fixed,
        "state": finding.state.value,
        "evidence": finding.evidence,
        "handling": bug.handling,
    }


class Report:
    """The same for a reader: groups of lines, wrapped to a width; a command to type is never wrapped."""

    def __init__(self, width: int, colour: bool):
        self._width = width
        self._colour = colour

    def lines(self, capabilities: Capabilities, engines: list[Verdict]) -> Iterator[str]:
        machine = f"Linux {capabilities.release} {capabilities.architecture}"
        pages = f"pages of {format_size(capabilities.page_size)}"
        yield f"pagescan {__version__} on {machine}, {pages}, {_user(capabilities)}"
        for group, findings in groupby(capabilities.findings, lambda finding: finding.fact.group):
            yield from ("", self._paint(group, 1))
            for finding in findings:
                yield from self._finding(finding)
        yield from ("", self._paint("Known bugs and blind spots of the kernel's interface", 1))
        for bug in capabilities.bugs:
            yield from self._bug(bug)
        yield from ("", self._paint("Engines, the best first, on private anonymous memory", 1))
        for verdict in engines:
            state = "works" if verdict.works else "missing"
            yield from self._entry(state, f"{verdict.name:<21}", [verdict.why], verdict.hint)
        yield from ("", self._paint("Verdict", 1), *self._verdict(capabilities, engines))

    def _finding(self, finding: Finding) -> Iterator[str]:
        outcome = finding.outcome
        texts = [text for text in (outcome.evidence, outcome.cause) if text]
        if len(texts) == 2:
            texts[1] = f"why: {texts[1]}"
        yield from self._entry(finding.state, f"{finding.fact.title:<21}", texts, outcome.cure)

    def _bug(self, finding: BugFinding) -> Iterator[str]:
        bug = finding.bug
        yield from self._entry(finding.state, "", [bug.title], None)
        if finding.state == "absent":
            return
        label = "why" if finding.state == "not probed" else "seen"
        yield from self._wrapped(f"{label}: {finding.evidence}", 13, _DIM)
        yield from self._wrapped(f"so: {bug.handling}", 13)

    def _verdict(self, capabilities: Capabilities, engines: list[Verdict]) -> Iterator[str]:
        best, taken = engines[0], next((verdict for verdict in engines if verdict.works), None)
        if taken is best:
            yield from self._wrapped(f'Tracking works. engine="auto" takes {best.name}: {best.why}.', 2)
            return
        if taken is not None:
            yield from self._wrapped(
                f'Tracking works, at a price (docs/engines.md): engine="auto" takes {taken.name}.', 2
            )
            yield from self._wrapped(f"The better way does not work here: {best.why}.", 2)
        else:
            yield from self._wrapped(f"Tracking does not work here: {best.why}.", 2)
        if best.hint:
            yield f"  mend: {best.hint}"
        if taken is None and capabilities["pagemap-scan"].state == "works":
            yield from self._wrapped("pagescan scan works: it shows every page state but WRITTEN.", 2)

    def _entry(self, state: str, title: str, texts: list[str], cure: str | None) -> Iterator[str]:
        head = f"  {self._paint(f'{state:<10}', _COLOURS.get(state, _DIM))} {title}"
        indent = 13 + len(title)
        for text in texts or [""]:
            for line in self._wrapped(text, indent):
                yield head + line[indent:] if head else line
                head = ""
        if cure:
            yield f"{'':{indent}}mend: {cure}"

    def _wrapped(self, text: str, indent: int, code: int = 0) -> list[str]:
        margin = " " * indent
        lines = textwrap.wrap(text, max(30, self._width - indent), break_long_words=False, break_on_hyphens=False)
        return [margin + self._paint(line, code) for line in lines or [""]]

    def _paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code else text


def _user(capabilities: Capabilities) -> str:
    return "as root" if capabilities.user == 0 else f"as user {capabilities.user}"
