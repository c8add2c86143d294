"""A process of the model followed and recorded as one of Linux is: on any system, with exact answers."""

from __future__ import annotations

from pathlib import Path

import pytest

import pagescan
from pagescan import NoSuchProcess, Quality
from pagescan.cli.model_workload import LENGTH, Workload, WorkloadWatch
from pagescan.model import BEHAVIOURS, KERNEL_BUGS, Machine, Process
from pagescan.recording import EndReason, Recording
from pagescan.recording.session import Session

PAGE = 4096
MS = 1_000_000


@pytest.fixture(params=BEHAVIOURS)
def process(request: pytest.FixtureRequest) -> Process:
    made = Machine(behaviour=request.param, bugs=KERNEL_BUGS[request.param]).process()
    made.mmap(16 * PAGE, name="[heap]", fixed=0x1000_0000)
    made.write(0x1000_0000, b"w" * 16 * PAGE)
    return made


def numbers(written: pagescan.Regions) -> list[int]:
    return [(int(address) - 0x1000_0000) // PAGE for address in written.pages().tolist()]


class TestFollowing:
    def test_what_is_written_is_told_once_to_every_reader(self, process):
        with pagescan.attach(process) as tracker:
            other = tracker.cursor()
            assert numbers(tracker.take()) == []
            process.write(0x1000_0000 + 3 * PAGE, b"x")
            assert numbers(tracker.take()) == [3]
            assert numbers(tracker.take()) == []
            assert numbers(other.take()) == [3]
            assert (tracker.pid, tracker.pause_ns, tracker.untracked) == (process.pid, 0, [])

    def test_mappings_come_and_go(self, process):
        with pagescan.attach(process) as tracker:
            at = process.mmap(4 * PAGE, fixed=0x1000_0000 + 64 * PAGE)
            process.write(at + PAGE, b"x")
            assert 65 in numbers(tracker.take())
            process.write(at, b"x")
            assert numbers(tracker.take()) == [64]
            process.munmap(at, 4 * PAGE)
            process.write(0x1000_0000, b"x")
            assert numbers(tracker.take()) == [0]
            assert tracker.pages.page_count == 16

    def test_only_the_mappings_asked_for(self, process):
        process.mmap(4 * PAGE)
        with pagescan.attach(process, mappings="[heap]") as tracker:
            assert tracker.pages.page_count == 16

    def test_a_transaction_and_contents(self, process):
        with pagescan.attach(process) as tracker:
            process.write(0x1000_0000 + PAGE, b"abc")
            with pytest.raises(ZeroDivisionError), tracker.taking():
                raise ZeroDivisionError
            with tracker.frozen(), tracker.taking() as written:
                assert bytes(tracker.read(written)[:3]) == b"abc"

    def test_the_end_of_the_process(self, process):
        with pagescan.attach(process) as tracker:
            process.exit()
            assert tracker.take().quality is Quality.LOST
            with pytest.raises(NoSuchProcess):
                tracker.take()

    def test_detached_it_is_tracked_no_more(self, process):
        with pagescan.attach(process):
            assert pagescan.scan(process, required_mask=pagescan.Category.WPALLOWED).page_count == 16
        assert pagescan.scan(process, required_mask=pagescan.Category.WPALLOWED).page_count == 0


def test_a_recording_of_a_process_of_the_model(tmp_path: Path) -> None:
    workload = Workload()
    watch = WorkloadWatch(workload)
    with pagescan.attach(workload.process) as tracker:
        session = Session(tracker, tmp_path / "r", interval_ns=100 * MS, started_ns=watch.clock(), clock=watch.clock)
        assert session.run(watch) is EndReason.EXITED
    with Recording.open(tmp_path / "r") as recording:
        info = recording.info
        assert (info.command_line, info.kernel, info.machine) == (("model process 1",), "6.18", "model")
        assert len(recording) == LENGTH + 1
        samples = list(recording)
        # 4 pages of the heap, 64 of the array, 5 of the file; a buffer of 128 in a quarter of the samples.
        assert [sample.regions.page_count for sample in samples[:3]] == [73, 73, 73]
        assert samples[LENGTH // 4].regions.page_count == samples[LENGTH // 4 + 1].regions.page_count == 73 + 128
        assert samples[LENGTH // 2 + 1].regions.page_count == 73
        assert {sample.quality for sample in samples[:-1]} == {Quality.EXACT}
        assert (samples[-1].quality, samples[-1].resident_pages) == (Quality.LOST, None)
        assert [sample.time_ns - info.started_ns for sample in samples[:2]] == [100 * MS, 200 * MS]
        assert {mapping.name for mapping in samples[0].mappings} == {"[heap]", "", "/srv/data"}
