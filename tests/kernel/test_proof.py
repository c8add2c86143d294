"""The proof that written pages are tracked: what it says, that it is remembered, and that it leaves nothing behind."""

from __future__ import annotations

import os

import pytest

from pagescan.errors import AccessDenied, KernelCannot
from pagescan.kernel import proof
from pagescan.kernel.procfs import list_mappings
from pagescan.kernel.space import LinuxSpace
from pagescan.kernel.trial import PMD_SIZE, Trial
from pagescan.query import Category


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No proof is remembered, before or after."""
    monkeypatch.setattr(proof, "_proofs", {})


@pytest.fixture
def works():
    """Skips where tracking does not work."""
    found = proof.prove_tracking()
    if not found.works:
        pytest.skip(f"nothing can be tracked here: {found.why}")
    return found


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def mapped_bytes() -> int:
    return sum(mapping.size for mapping in list_mappings(os.getpid()) if mapping.name != "[heap]")


class TestSuccess:
    def test_says_what_was_seen(self, works):
        assert works.why == "protected 4 fresh pages and wrote to one: exactly that page was reported, once"
        assert works.hint is None

    def test_is_remembered(self, works, monkeypatch):
        monkeypatch.setattr(proof, "try_tracking", lambda: pytest.fail("proved again"))
        assert proof.prove_tracking() is works
        assert LinuxSpace.current().prove_tracking() is works

    def test_forked_child_proves_it_anew(self, works, monkeypatch):
        monkeypatch.setattr(os, "getpid", lambda: 1)
        monkeypatch.setattr(proof, "try_tracking", _refuse)
        assert proof.prove_tracking().works is False

    def test_leaves_neither_memory_nor_descriptors(self, works):
        proof.try_tracking()
        before = open_descriptors(), mapped_bytes()
        for _ in range(20):
            proof.try_tracking()
        assert open_descriptors() == before[0]
        assert mapped_bytes() - before[1] < 2 * PMD_SIZE, "the area of a trial is still mapped"

    def test_dropped_memory_agrees_with_a_scan_of_it(self, works):
        with Trial() as trial:
            area = trial.area()
            trial.register(area)
            found = trial.scan(area, mask=Category.WRITTEN, returned=Category.WRITTEN)
            assert works.reports_dropped == (len(found) == area.count)


def _refuse():
    raise AccessDenied("somebody forbids it", hint="sudo allow it")


class TestFailure:
    @pytest.mark.parametrize(
        ("error", "why", "hint"),
        [
            (AccessDenied("somebody forbids it", hint="sudo allow it"), "somebody forbids it", "sudo allow it"),
            (KernelCannot("the kernel is too old"), "the kernel is too old", None),
            (OSError(24, "Too many open files"), "the round trip failed: [Errno 24] Too many open files", None),
        ],
    )
    def test_becomes_words(self, monkeypatch, error, why, hint):
        def fail():
            raise error

        monkeypatch.setattr(proof, "try_tracking", fail)
        found = proof.prove_tracking()
        assert (found.works, found.why, found.hint, found.reports_dropped) == (False, why, hint, False)

    def test_is_tried_again(self, works, monkeypatch):
        monkeypatch.setattr(proof, "_proofs", {})
        with monkeypatch.context() as patched:
            patched.setattr(proof, "try_tracking", _refuse)
            assert proof.prove_tracking().works is False
        assert proof.prove_tracking().works is True

    @pytest.mark.usefixtures("works")
    def test_wrong_answer_of_the_kernel_is_no_proof(self, monkeypatch):
        monkeypatch.setattr(Trial, "written", lambda trial, pages, protect=False: [0, 1, 2, 3])
        with pytest.raises(KernelCannot) as caught:
            proof.try_tracking()
        assert caught.value.message == (
            "after protecting 4 fresh pages, PAGEMAP_SCAN reports pages [0, 1, 2, 3] as written instead of []"
        )

    @pytest.mark.usefixtures("works")
    def test_failure_leaves_nothing_behind_either(self, monkeypatch):
        before = open_descriptors()
        monkeypatch.setattr(Trial, "protect", lambda trial, pages: _refuse())
        with pytest.raises(AccessDenied):
            proof.try_tracking()
        assert open_descriptors() == before
