"""What a probe found, as values: the vocabulary of the feature table and of ``pagescan doctor``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AccessDenied, KernelCannot, PagescanError

if TYPE_CHECKING:
    from collections.abc import Callable


class State(enum.StrEnum):
    """How a feature stands on this machine."""

    WORKS = "works"  #: a round trip showed it
    MISSING = "missing"  #: this kernel has it not, or was built or configured without it
    REFUSED = "refused"  #: the kernel has it, this process may not use it
    UNKNOWN = "unknown"  #: the round trip showed neither
    SKIPPED = "skipped"  #: it was not tried, since what it needs is not there; nothing was changed to make it so


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe did and saw.

    Attributes:
        state: how the feature stands.
        evidence: what was done and what was seen; "" if it came to nothing.
        cause: why it does not work, or None.
        cure: the one command that mends it, or None.
    """

    state: State
    evidence: str
    cause: str | None = None
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """One feature of Linux: a row of the feature table.

    Attributes:
        key: its name in ``pagescan doctor --json``.
        group: the heading it stands under.
        title: its name in words.
        about: what it is, and what it is to pagescan.
        since: the Linux release that brought it.
        source: the commit that did, in the form ``hash ("subject")``, or "" if it is as old as its group.
        probe: shows by a round trip whether it works.
    """

    key: str
    group: str
    title: str
    about: str
    since: str
    source: str
    probe: Callable[[], Outcome]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact and how it stands here."""

    fact: Fact
    outcome: Outcome

    @property
    def key(self) -> str:
        return self.fact.key

    @property
    def state(self) -> State:
        return self.outcome.state


class BugState(enum.StrEnum):
    """Whether this kernel shows a known bug."""

    SHOWN = "shown"
    ABSENT = "absent"
    NOT_PROBED = "not probed"


@dataclass(frozen=True, slots=True)
class Bug:
    """A known defect, or blind spot, of the interface: a row of the table of bugs.

    Attributes:
        key: its name in ``pagescan doctor --json``.
        title: what goes wrong.
        fixed: the releases and the commit that mend it, or "open".
        handling: what pagescan does about it, or what its user has to know.
        probe: whether it shows, and what was done and seen; None where running it could harm the machine.
    """

    key: str
    title: str
    fixed: str
    handling: str
    probe: Callable[[], tuple[bool, str]] | None


@dataclass(frozen=True, slots=True)
class BugFinding:
    """A bug and whether it shows here; ``evidence`` is what was done and seen, or why nothing was."""

    bug: Bug
    state: BugState
    evidence: str


def works(evidence: str) -> Outcome:
    """The feature works: ``evidence`` was seen."""
    return Outcome(State.WORKS, evidence)


def examine(fact: Fact) -> Finding:
    """Run a fact's probe; every error becomes an outcome."""
    try:
        outcome = fact.probe()
    except AccessDenied as error:
        outcome = Outcome(State.REFUSED, "", error.message, error.hint)
    except KernelCannot as error:
        outcome = Outcome(State.MISSING, "", error.message)
    except (PagescanError, OSError) as error:
        outcome = Outcome(State.UNKNOWN, "", f"the round trip failed: {error}")
    return Finding(fact, outcome)


def examine_bug(bug: Bug) -> BugFinding:
    """Run a bug's probe, if it is safe to."""
    if bug.probe is None:
        return BugFinding(bug, BugState.NOT_PROBED, "running it would crash or hang an affected kernel")
    try:
        shown, evidence = bug.probe()
    except PagescanError as error:
        return BugFinding(bug, BugState.NOT_PROBED, error.message)
    except OSError as error:
        return BugFinding(bug, BugState.NOT_PROBED, f"the round trip failed: {error}")
    return BugFinding(bug, BugState.SHOWN if shown else BugState.ABSENT, evidence)
