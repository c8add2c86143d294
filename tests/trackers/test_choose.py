"""Which engine answers, and why."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref

import numpy as np
import pytest

import pagescan
from pagescan import InvalidArgument, KernelCannot, RegisteredElsewhere
from pagescan.abi import TrackingProof
from pagescan.model import Machine
from pagescan.process.current import current_space
from pagescan.trackers.choose import choose, survey


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


def broken(monkeypatch) -> None:
    """This process can have no userfaultfd."""
    proof = TrackingProof(works=False, why="a seccomp filter blocks userfaultfd", hint="docker run ...")
    monkeypatch.setattr(type(current_space()), "prove_tracking", lambda self: proof)

    def refuse(space, features):
        raise KernelCannot(proof.why, hint=proof.hint)

    monkeypatch.setattr(type(current_space()), "open_userfaultfd", refuse)
    monkeypatch.setattr("pagescan.trackers.choose._proofs", weakref.WeakKeyDictionary())


def test_better_engines_that_cannot_are_passed_over_with_the_reason(monkeypatch):
    broken(monkeypatch)
    array = pagescan.zeros(4 * 4096, np.uint8)
    with pagescan.track(array) as tracker:
        assert tracker.engine in ("compare", "soft-dirty")
        assert "pagemap-scan was passed over" in tracker.why
        assert "a seccomp filter blocks userfaultfd" in tracker.why
        array[5000] = 1
        assert tracker.take().slices(array) == [slice(4096, 8192)]


def test_a_machine_that_cannot_is_explained(monkeypatch):
    broken(monkeypatch)
    with pytest.raises(KernelCannot, match="a seccomp filter") as caught:
        choose(current_space(), "pagemap-scan")
    assert caught.value.hint == "docker run ..."
    monkeypatch.setattr(type(current_space()), "engines", ("pagemap-scan", "pagemap-read"))
    with pytest.raises(KernelCannot, match=r"a seccomp filter.*\(pagemap-read: ") as caught:
        choose(current_space())
    assert caught.value.hint == "docker run ..."


@pytest.mark.parametrize("engine", ["pagemap-scan", "pagemap-read", "compare"])
def test_each_engine_tells_its_name_and_quality(engine):
    array = pagescan.zeros(8 * 4096, np.uint8)
    with pagescan.track(array, engine=engine) as tracker:
        assert tracker.engine == engine
        assert tracker.why.startswith("forced by name; ")
        array[9000] = 1
        written = tracker.take()
        assert written.slices(array) == [slice(8192, 12288)]
        assert written.quality is pagescan.Quality.EXACT


def test_trackers_of_different_engines_live_side_by_side():
    first, second = pagescan.zeros(4096, np.uint8), pagescan.zeros(4096, np.uint8)
    with pagescan.track(first) as scanning, pagescan.track(second, engine="compare") as comparing:
        first[0] = second[0] = 1
        assert scanning.take().slices(first) == comparing.take().slices(second) == [slice(0, 4096)]
        with pagescan.track(first, engine="compare") as again:
            first[0] = 2
            assert len(again.take()) == len(scanning.take()) == 1


def test_memory_of_another_engine_goes_to_the_next_one():
    array = pagescan.zeros(4 * 4096, np.uint8)
    with pagescan.track(array, engine="pagemap-read") as reading, pagescan.track(array) as tracker:
        assert tracker.engine == "pagemap-read"
        assert "another userfaultfd owns it" in tracker.why
        array[0] = 1
        assert len(reading.take()) == len(tracker.take()) == 1
        with pytest.raises(RegisteredElsewhere):
            pagescan.track(array, engine="pagemap-scan")


def test_memory_that_cannot_be_registered_is_compared():
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * 4096)
        with (
            open(f"/proc/self/fd/{file.fileno()}", "rb") as reopened,
            mmap.mmap(reopened.fileno(), 0, access=mmap.ACCESS_READ) as buffer,
            pagescan.track(buffer) as tracker,
        ):
            assert tracker.engine == "compare"
            assert "opened read-only" in tracker.why
            os.pwrite(file.fileno(), b"x", 5000)
            written = tracker.take()
            assert written.slices(buffer) == [slice(4096, 8192)]
            assert written.quality is pagescan.Quality.EXACT
            assert not tracker.changed()


def test_soft_dirty_is_not_taken_for_there_because_the_reset_succeeds():
    current_space().clear_soft_dirty()
    finding = {verdict.name: verdict for verdict in survey(current_space())}["soft-dirty"]
    array = pagescan.zeros(4 * 4096, np.uint8)
    if not finding.works:
        with pytest.raises(KernelCannot):
            pagescan.track(array, engine="soft-dirty")
        return
    with pagescan.track(array, engine="soft-dirty") as tracker:
        array[5000] = 1
        assert array.ctypes.data + 4096 in tracker.take()
