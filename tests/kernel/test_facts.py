"""The feature table: its rows, and that every probe sees what is there, by another way where there is one."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest

from pagescan.abi import Feature
from pagescan.errors import AccessDenied, KernelCannot, PagescanError
from pagescan.kernel import bugs, permissions, probes, probes_tracking
from pagescan.kernel.bugs import BUGS
from pagescan.kernel.facts import FACTS, Capabilities, probe_machine
from pagescan.kernel.findings import (
    Bug,
    BugState,
    Fact,
    Outcome,
    State,
    examine,
    examine_bug,
    works,
)
from pagescan.kernel.pagemap import Pagemap
from pagescan.kernel.procfs import list_mappings, read_status
from pagescan.kernel.trial import PMD_SIZE, Trial, child
from pagescan.kernel.userfaultfd import supported_features
from pagescan.process.descendants import find_descendants
from pagescan.query import Category


@pytest.fixture(scope="module")
def capabilities() -> Capabilities:
    return probe_machine()


@pytest.fixture(autouse=True)
def needs_pagemap_scan():
    with Pagemap.open("self") as pagemap:
        try:
            _ = pagemap.known
        except KernelCannot as error:
            pytest.skip(f"no PAGEMAP_SCAN: {error.message}")


class TestTable:
    def test_keys_are_unique(self):
        assert len({fact.key for fact in FACTS}) == len(FACTS)
        assert len({bug.key for bug in BUGS}) == len(BUGS)

    def test_every_category_has_a_row_with_its_release(self):
        since = {fact.title: fact.since for fact in FACTS}
        assert {name: since[name] for name in Category.__members__} == {
            **dict.fromkeys(Category.__members__, "6.7"),
            "SOFT_DIRTY": "6.8",
            "GUARD": "6.16",
            "ACCESSED": "7.3",
        }

    @pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.key)
    def test_cites_its_commit(self, fact):
        if fact.source:
            assert re.match(r'[0-9a-f]{12} \(".+"\)$|the series of ', fact.source)
            assert re.match(r"\d+\.\d+$", fact.since)

    def test_groups_stand_together(self):
        groups = [fact.group for fact in FACTS]
        changes = sum(a != b for a, b in itertools.pairwise(groups))
        assert changes == len(set(groups)) - 1

    def test_what_harms_is_never_probed(self):
        assert {bug.key for bug in BUGS if bug.probe is None} == {"crash-without-buffer", "hugetlb-deadlock"}


class TestMachine:
    def test_one_finding_a_row(self, capabilities):
        assert tuple(finding.fact for finding in capabilities.findings) == FACTS
        assert tuple(finding.bug for finding in capabilities.bugs) == BUGS
        assert capabilities["tracking"].fact.key == "tracking"
        with pytest.raises(KeyError):
            capabilities["no such fact"]

    def test_a_finding_says_why(self, capabilities):
        for finding in capabilities.findings:
            if finding.state is State.WORKS:
                assert finding.outcome.evidence
                assert finding.outcome.cure is None
            else:
                assert finding.outcome.cause, finding.key

    def test_categories_agree_with_what_the_kernel_accepts(self, capabilities):
        with Pagemap.open("self") as pagemap:
            known = pagemap.known
        unknown = {str(c.name).lower().replace("_", "-") for c in Category if not c & known}
        said = {f.key for f in capabilities.findings if "does not know the category" in (f.outcome.cause or "")}
        assert said == unknown

    def test_tracking_agrees_with_the_offered_features(self, capabilities):
        offered = bool(supported_features() & Feature.WP_ASYNC)
        assert (capabilities["tracking"].state is State.WORKS) == offered

    def test_settings_are_reported_as_they_are(self, capabilities):
        swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
        assert (capabilities["swapped"].state is State.SKIPPED) == (not swap)
        assert (capabilities["device"].state is State.WORKS) == os.access("/dev/userfaultfd", os.R_OK | os.W_OK)
        words = "none" if read_status(os.getpid()).seccomp == 0 else "a filter"
        assert capabilities["confinement"].outcome.evidence.endswith(f"seccomp {words}")

    def test_changes_nothing(self, capabilities):
        def state():
            mapped = sum(m.size for m in list_mappings(os.getpid()) if m.name != "[heap]")
            huge = Path("/proc/sys/vm/nr_hugepages").read_text()
            return sorted(os.listdir("/proc/self/fd")), huge, find_descendants(os.getpid()), mapped

        before = state()
        probe_machine()
        after = state()
        assert after[:3] == before[:3]
        assert after[3] - before[3] < PMD_SIZE, "memory of a probe is still mapped"


class TestWrongAnswers:
    """A probe believes what it sees, never what it hopes."""

    def test_no_page_where_one_is_expected(self):
        outcome = probes.compare([], [2], "wrote to page 2", "written")
        assert (outcome.state, outcome.cause) == (State.MISSING, "the kernel's answer is wrong")
        assert outcome.evidence == "wrote to page 2: no page is reported written, not page 2"

    def test_one_page_too_many(self):
        outcome = probes.compare([2, 3], [2], "wrote to page 2", "written")
        assert outcome.evidence == "wrote to page 2: pages 2 and 3 are reported written, not page 2"

    def test_right_answer(self):
        assert probes.compare([1, 4], [1, 4], "touched two", "present") == works(
            "touched two: only pages 1 and 4 are reported present"
        )

    @pytest.mark.parametrize("probe", [probes.written, probes_tracking.kernel_writes, probes_tracking.shared_memory])
    def test_kernel_that_calls_everything_written(self, monkeypatch, capabilities, probe):
        if capabilities["tracking"].state is not State.WORKS:
            pytest.skip(f"nothing can be tracked here: {capabilities['tracking'].outcome.cause}")
        monkeypatch.setattr(Trial, "written", lambda trial, pages: list(range(pages.count)))
        assert probe().state is State.MISSING

    def test_category_the_kernel_lacks(self, monkeypatch):
        monkeypatch.setattr(Pagemap, "known", Category.PRESENT)
        outcome = examine(next(fact for fact in FACTS if fact.key == "guard")).outcome
        assert outcome.state is State.MISSING
        assert outcome.cause is not None

    @pytest.mark.parametrize(
        ("answer", "state"),
        [
            ("0123 - 2", State.WORKS),
            ("- - -", State.MISSING),
            ("0123 0123 0123", State.UNKNOWN),
            ("error: no", State.UNKNOWN),
        ],
    )
    def test_soft_dirty_reset(self, monkeypatch, answer, state):
        monkeypatch.setattr(probes_tracking, "_soft_dirty_pages", lambda: answer)
        assert probes_tracking.clear_refs().state is state


class TestExamine:
    @staticmethod
    def fact(probe):
        return Fact("key", "group", "title", "about", "6.7", "", probe)

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (AccessDenied("forbidden", hint="sudo it"), Outcome(State.REFUSED, "", "forbidden", "sudo it")),
            (KernelCannot("too old", hint="update"), Outcome(State.MISSING, "", "too old")),
            (OSError(5, "I/O"), Outcome(State.UNKNOWN, "", "the round trip failed: [Errno 5] I/O")),
            (PagescanError("odd"), Outcome(State.UNKNOWN, "", "the round trip failed: odd")),
        ],
    )
    def test_errors_become_outcomes(self, error, expected):
        def probe():
            raise error

        assert examine(self.fact(probe)).outcome == expected

    @pytest.mark.parametrize(
        ("probe", "state", "evidence"),
        [
            (lambda: (True, "saw it"), BugState.SHOWN, "saw it"),
            (lambda: (False, "saw nothing"), BugState.ABSENT, "saw nothing"),
            (None, BugState.NOT_PROBED, "running it would crash or hang an affected kernel"),
        ],
    )
    def test_bugs(self, probe, state, evidence):
        finding = examine_bug(Bug("key", "title", "open", "nothing", probe))
        assert (finding.state, finding.evidence) == (state, evidence)

    def test_bug_that_cannot_be_probed(self):
        def probe():
            raise KernelCannot("it needs what is not there")

        finding = examine_bug(Bug("key", "title", "open", "nothing", probe))
        assert (finding.state, finding.evidence) == (BugState.NOT_PROBED, "it needs what is not there")


class TestBugs:
    def test_stale_walk_end_is_what_the_kernel_says(self):
        shown, evidence = bugs.stale_walk_end()
        assert f"returned {bugs._BATCH + 1} regions" in evidence
        assert shown == (not evidence.endswith("walk_end says the end"))

    def test_hugetlb_is_left_alone_without_a_free_page(self):
        with Trial() as trial:
            if trial.huge_page() is not None:
                pytest.skip("a hugetlb page is free here")
        with pytest.raises(KernelCannot, match="nr_hugepages"):
            bugs.hugetlb_no_progress()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can reserve huge pages")
    def test_with_a_free_hugetlb_page(self, capabilities):
        if capabilities["tracking"].state is not State.WORKS:
            pytest.skip(f"nothing can be tracked here: {capabilities['tracking'].outcome.cause}")
        setting = Path("/proc/sys/vm/nr_hugepages")
        if not setting.exists():
            pytest.skip("this kernel has no hugetlb")
        before = setting.read_text()
        try:
            setting.write_text(str(int(before) + 2))
            with Trial() as trial:
                if trial.huge_page() is None:
                    pytest.skip("the machine has no huge page to spare")
            assert probes.hugetlb().state is State.WORKS
            shown, evidence = bugs.hugetlb_no_progress()
            assert shown == ("ends where it began" in evidence)
        finally:
            setting.write_text(before)
        assert setting.read_text() == before


class TestProcesses:
    def test_child_waits_and_ends_with_the_block(self):
        with child(lambda: f"I am {os.getpid()}") as other:
            assert other.answer == f"I am {other.pid}"
            assert other.pid != os.getpid()
            assert os.readlink(f"/proc/{other.pid}/fd/{other.descriptor}").startswith("pipe:")
        assert not os.path.exists(f"/proc/{other.pid}")

    def test_child_that_fails_tells(self):
        def fail():
            raise RuntimeError("broken")

        with child(fail) as other:
            assert other.answer == "error: broken"

    def test_orphan_is_no_child(self):
        with child(orphan=True) as other:
            parent = int(read_status(other.pid)["PPid"])
            assert parent != os.getpid() or os.getpid() == 1

    def test_own_child_may_be_looked_at(self):
        outcome = permissions.own_child()
        assert outcome.state in (State.WORKS, State.REFUSED)
        assert outcome.evidence.startswith("opened the pagemap of a child process")

    def test_capability_is_that_of_the_status_file(self):
        effective = int(read_status(os.getpid())["CapEff"], 16)
        assert permissions.has_capability(permissions.CAP_SYS_PTRACE) == bool(effective & 1 << 19)
