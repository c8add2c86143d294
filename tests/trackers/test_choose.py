"""Which engine answers, and why."""

from __future__ import annotations

import pytest

import pagescan
from pagescan import InvalidArgument, KernelCannot
from pagescan.abi import TrackingProof
from pagescan.model import Machine
from pagescan.process.current import current_space
from pagescan.trackers.choose import choose


def model_buffer(behaviour: str = "6.18") -> pagescan.model.Buffer:
    process = Machine(behaviour=behaviour).process()
    return process.buffer(process.mmap(4 * 4096), 4 * 4096)


def test_auto_says_which_and_why():
    with pagescan.track(pagescan.zeros(10)) as tracker:
        assert tracker.engine == "pagemap-scan"
        assert "exactly that page was reported" in tracker.why


def test_memory_of_the_model_is_tracked_by_the_model():
    with pagescan.track(model_buffer()) as tracker:
        assert tracker.engine == "model"


def test_an_engine_can_be_forced():
    assert choose(current_space(), "pagemap-scan") == ("pagemap-scan", "forced by name; " + choose(current_space())[1])
    with pagescan.track(model_buffer(), engine="model") as tracker:
        assert tracker.engine == "model"


def test_the_environment_can_force_one(monkeypatch):
    monkeypatch.setenv("PAGESCAN_ENGINE", "model")
    with pytest.raises(InvalidArgument, match="cannot track memory of this process"):
        pagescan.track(pagescan.zeros(10))
    with pagescan.track(model_buffer()) as tracker:
        assert tracker.engine == "model"


def test_an_engine_for_other_memory_is_refused():
    with pytest.raises(InvalidArgument, match="model process"):
        pagescan.track(model_buffer(), engine="pagemap-scan")
    with pytest.raises(InvalidArgument, match="tracks its own memory"):
        pagescan.track(pagescan.zeros(10), engine="model")


def test_a_machine_that_cannot_is_explained(monkeypatch):
    proof = TrackingProof(works=False, why="a seccomp filter blocks userfaultfd", hint="docker run ...")
    monkeypatch.setattr(type(current_space()), "prove_tracking", lambda self: proof)
    with pytest.raises(KernelCannot, match="a seccomp filter") as caught:
        choose(current_space())
    assert caught.value.hint == "docker run ..."
