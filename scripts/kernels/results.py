"""What became of the tests on each kernel, and tables of it."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

BEGIN, END = "<!-- scripts/test-kernels --markdown writes from here -->\n", "<!-- to here -->\n"
#: Columns of the table of features: a heading, and the key of a finding of ``pagescan doctor --json``.
FEATURES = (
    ("tracking", "tracking"),
    ("PAGEMAP_SCAN", "pagemap-scan"),
    ("shared", "shared-memory"),
    ("file", "mapped-file"),
    ("THP", "thp"),
    ("hugetlb", "hugetlb"),
    ("SWAPPED", "swapped"),
    ("SOFT_DIRTY", "soft-dirty"),
    ("GUARD", "guard"),
    ("ACCESSED", "accessed"),
    ("PROCMAP_QUERY", "procmap-query"),
)

COMPARED = """\
Random histories of operations on the kernel and on the model, every answer compared, as many as fitted the time.
The model is what the kernel was recognised as by its answers (`tests/model/release.py`)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test: ``outcome`` is "passed", "failed" or "skipped"; ``text`` says why."""

    test: str
    outcome: str
    seconds: float
    text: str


@dataclass(slots=True)
class Result:
    """What one kernel did.

    Attributes:
        name: the kernel's name.
        package: the package it came in, with its version.
        release, machine, page_size: what the guest says of itself.
        outcomes: of the tests, by their names.
        collected: how many tests there were to run.
        doctor: what ``pagescan doctor --json`` printed there.
        properties: what tests recorded of the kernel ("model", "histories": the differential test).
        running: the test that began last.
        ended: whether the guest came to its end.
        alarms: lines in which the kernel says that it went wrong.
        notes: whatever else the guest had to say.
        trouble: why there is no whole result, or "".
        unavailable: why it could not be tried at all, or "".
        seconds: from building the guest to its end.
    """

    name: str
    package: str = ""
    release: str = ""
    machine: str = ""
    page_size: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    collected: int = 0
    doctor: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    running: str = ""
    ended: bool = False
    alarms: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trouble: str = ""
    unavailable: str = ""
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Note an outcome; a failure of the same test's teardown counts more than its success."""
        before = self.outcomes.get(outcome.test)
        if before is None or before.outcome != "failed":
            self.outcomes[outcome.test] = outcome

    def those(self, outcome: str) -> list[Outcome]:
        """The tests with this outcome."""
        return [one for one in self.outcomes.values() if one.outcome == outcome]

    def count(self, outcome: str) -> int:
        return len(self.those(outcome))

    @property
    def good(self) -> bool:
        """Whether every test was run and none failed, and the kernel did not go wrong. True of what cannot be had."""
        if self.unavailable:
            return True
        whole = self.ended and not self.trouble and self.collected <= len(self.outcomes)
        return whole and bool(self.outcomes) and not self.count("failed") and not self.alarms


def as_text(results: Sequence[Result]) -> str:
    """The table for a terminal, with what failed and why tests were skipped below it."""
    lines = [f"{'kernel':20} {'release':28} {'page':>5} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}"]
    for result in results:
        if result.unavailable:
            lines.append(f"{result.name:20} SKIPPED: {result.unavailable}")
            continue
        counts = [result.count(outcome) for outcome in ("passed", "failed", "skipped")]
        lines.append(
            f"{result.name:20} {result.release:28} {result.page_size:5} {counts[0]:7} {counts[1]:7} {counts[2]:8} "
            f"{result.seconds:8.0f}{'' if result.good else '  FAILED'}"
        )
    for result in results:
        lines += _details(result)
    return "\n".join(lines)


def _details(result: Result) -> list[str]:
    lines = [f"TROUBLE: {result.trouble}"] if result.trouble else []
    if result.ended and result.collected > len(result.outcomes):
        lines.append(f"TROUBLE: {result.collected} tests, but only {len(result.outcomes)} outcomes")
    lines += [f"the kernel says: {line}" for line in result.alarms]
    lines += [f"note: {note}" for note in result.notes]
    lines += [f"{name}: {value}" for name, value in result.properties.items()]
    for failure in result.those("failed"):
        lines += [f"FAILED {failure.test} ({failure.seconds:.1f} s)", *("    " + x for x in failure.text.splitlines())]
    lines += [f"skipped {count}: {reason}" for reason, count in skips(result)]
    return ["", f"{result.name}:", *lines] if lines else []


def skips(result: Result) -> list[tuple[str, int]]:
    """The reasons for which tests were skipped, and how many each, the most frequent first."""
    reasons = (" ".join(one.text.split()) for one in result.those("skipped"))
    return Counter(re.sub(r"0x[0-9a-f]+-0x[0-9a-f]+", "START-END", reason) for reason in reasons).most_common()


def write_tables(page: Path, results: Sequence[Result]) -> None:
    """Put the tables into a page, in place of what stands between its two marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n{as_markdown(results)}\n{end}{after}")


def as_markdown(results: Sequence[Result]) -> str:
    """The tables of docs/support.md."""
    tried = [result for result in results if not result.unavailable]
    counted = ("kernel", "package", "machine", "page", "passed", "failed", "skipped", "seconds")
    parts = [
        "## What was run",
        f"On {time.strftime('%d %B %Y', time.gmtime())}:",
        _table(counted, map(_row, tried)),
        *(f"`{result.name}` was not tried: {result.unavailable}" for result in results if result.unavailable),
        *_failures(tried),
        "## What each kernel has",
        "As `pagescan doctor --json` found it there, by a round trip for each.",
        _table(("kernel", *(heading for heading, _ in FEATURES)), map(_features, tried)),
        "## The model held against each kernel",
        COMPARED,
        _table(("kernel", "the model as", "histories"), map(_histories, tried)),
        "## Why tests were skipped",
        _table(("reason", *(result.name for result in tried)), _skip_rows(tried)),
    ]
    return "\n\n".join(parts) + "\n"


def _failures(results: Sequence[Result]) -> list[str]:
    """A list of what failed, by test."""
    where: dict[str, list[str]] = {}
    for result in results:
        for failure in result.those("failed"):
            where.setdefault(failure.test, []).append(result.name)
    lines = [f"* `{test}` on {', '.join(names)}" for test, names in where.items()]
    return ["Failed:", "\n".join(lines)] if lines else []


def _row(result: Result) -> list[str]:
    package, _, version = result.package.partition("=")
    counts = [str(result.count(outcome)) for outcome in ("passed", "failed", "skipped")]
    last = f"{result.seconds:.0f}" + (f" ({result.trouble})" if result.trouble else "")
    return [f"`{result.name}`", f"{package} {version}", result.machine, str(result.page_size), *counts, last]


def _features(result: Result) -> list[str]:
    states = {feature["key"]: feature["state"] for feature in result.doctor.get("features", ())}
    words = {"works": "yes", "missing": "no"}
    return [f"`{result.name}`", *(words.get(states.get(key, "?"), states.get(key, "?")) for _, key in FEATURES)]


def _histories(result: Result) -> list[str]:
    """What the differential test came to."""
    return [f"`{result.name}`", *(str(result.properties.get(key, "not compared")) for key in ("model", "histories"))]


def _skip_rows(results: Sequence[Result]) -> list[list[str]]:
    by_kernel = [dict(skips(result)) for result in results]
    total = Counter[str]()
    for one in by_kernel:
        total.update(one)
    reasons = [reason for reason, _ in total.most_common()]
    return [[reason.replace("|", "\\|"), *(str(one.get(reason, "")) for one in by_kernel)] for reason in reasons]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
