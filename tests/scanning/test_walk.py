"""Level 2: scan() of buffers, processes and ranges, and the repairs of the walk, over a scripted kernel too."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import pagescan
from pagescan import Category, InvalidArgument, NoProgress, NoSuchProcess, NotABuffer, NotWriteProtectable, Process
from pagescan.query import ALL_CATEGORIES
from pagescan.scanning.call import prepare_scan

PAGE = mmap.PAGESIZE

pytestmark = pytest.mark.usefixtures("tracking")


@pytest.fixture
def array() -> np.ndarray:
    return pagescan.zeros(16 * PAGE, np.uint8)


class TestTargets:
    def test_a_buffer(self, array):
        array[3 * PAGE] = array[4 * PAGE] = 1
        found = pagescan.scan(array, required_mask=Category.PRESENT, return_mask=Category.PRESENT)
        assert found.within(array) == [slice(3 * PAGE, 5 * PAGE)]
        assert found.page_count == 2

    def test_part_of_a_buffer_is_looked_at_in_whole_pages(self, array):
        array[:] = 1
        found = pagescan.scan(array[PAGE + 5 : 2 * PAGE + 5], required_mask=Category.PRESENT)
        assert found.page_count == 2

    def test_start_and_end_cut_the_target(self, array):
        array[:] = 1
        base = array.ctypes.data
        found = pagescan.scan(array, start=base + PAGE + 1, end=base + 3 * PAGE, required_mask=Category.PRESENT)
        assert found.within(array) == [slice(PAGE, 3 * PAGE)]

    def test_self_holds_the_buffer(self, array):
        array[7 * PAGE] = 1
        found = pagescan.scan("self", required_mask=Category.PRESENT)
        assert array.ctypes.data + 7 * PAGE in found
        assert array.ctypes.data not in found
        assert found == pagescan.scan(os.getpid(), required_mask=Category.PRESENT) or found.page_count > 100

    def test_another_process(self):
        code = f"""
import mmap, sys, ctypes
m = mmap.mmap(-1, {16 * PAGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in (1, 2, 9): m[page * {PAGE}] = 1
print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            base = int(child.stdout.readline())
            for target in (child.pid, Process(child.pid)):
                found = pagescan.scan(
                    target, start=base, end=base + 16 * PAGE, required_mask=Category.PRESENT, return_mask=0
                )
                assert [(r.start - base) // PAGE for r in found] == [1, 9]
                assert [r.size // PAGE for r in found] == [2, 1]
            process = Process(child.pid)
            assert process.read(found)[::PAGE].tolist() == [1, 1, 1]
            child.communicate("")
        assert not process.alive()
        with pytest.raises(NoSuchProcess):
            process.mappings()
        with pytest.raises(NoSuchProcess):
            pagescan.scan(child.pid)

    def test_what_is_no_target(self):
        with pytest.raises(InvalidArgument, match="self"):
            pagescan.scan("me")
        with pytest.raises(NotABuffer):
            pagescan.scan(object())
        with pytest.raises(InvalidArgument, match="ends before"):
            pagescan.scan("self", start=2 * PAGE, end=PAGE)


class TestUntracked:
    def test_written_of_untracked_memory_is_an_error(self, array):
        (mapping,) = [m for m in Process(os.getpid()).mappings() if m.start <= array.ctypes.data < m.end]
        with pytest.raises(NotWriteProtectable, match=f"the mapping {mapping.start:#x}-{mapping.end:#x} rw-p"):
            pagescan.scan(array, required_mask=Category.WRITTEN)

    @pytest.mark.parametrize("masks", [{"required_mask": Category.WRITTEN}, {"excluded_mask": Category.WRITTEN}])
    def test_skip_leaves_untracked_mappings_out(self, array, masks):
        array[:] = 1
        other = pagescan.zeros(4 * PAGE, np.uint8)
        other[:] = 1
        with pagescan.track(array):
            array[2 * PAGE] = 2
            found = pagescan.scan("self", untracked="skip", return_mask=0, **masks)
            assert found.page_count == (1 if "required_mask" in masks else 15)
            assert other.ctypes.data not in found

    def test_no_category_is_invented(self, array):
        array[:] = 1
        (region,) = pagescan.scan(array, return_mask=ALL_CATEGORIES)
        assert region.categories & ~Category.SOFT_DIRTY == Category.PRESENT

    def test_a_wrong_word(self, array):
        with pytest.raises(InvalidArgument, match="untracked"):
            pagescan.scan(array, untracked="ignore")  # type: ignore[arg-type]


class TestClassicQueries:
    """The three examples of the document."""

    def test_written_pages_that_are_file_backed_and_not_swapped(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(bytes(8 * PAGE))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as buffer, pagescan.track(buffer):
            buffer[3 * PAGE] = 1
            found = pagescan.scan(
                buffer,
                required_mask=Category.FILE | Category.WRITTEN,
                excluded_mask=Category.SWAPPED,
                return_mask=Category.WRITTEN,
            )
            assert found.within(buffer) == [slice(3 * PAGE, 4 * PAGE)]

    def test_pages_that_are_file_backed_or_swapped(self, tmp_path, array):
        path = tmp_path / "file"
        path.write_bytes(bytes(8 * PAGE))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as buffer:
            assert buffer[0] == buffer[5 * PAGE] == 0
            found = pagescan.scan(buffer, anyof_mask=Category.FILE | Category.SWAPPED, return_mask=0)
            assert PAGE * 8 >= found.byte_count >= 2 * PAGE
            array[:] = 1
            assert not pagescan.scan(array, anyof_mask=Category.FILE | Category.SWAPPED)


class Scripted:
    """A pagemap whose kernel answers as told: for the traps that a given kernel may not have."""

    known = ALL_CATEGORIES

    def __init__(self, answers):
        self.space = self
        self.page_size = PAGE
        self.label = "a scripted kernel"
        self.prepared_scans = None
        self.answers = list(answers)
        self.calls: list[tuple[int, int]] = []

    def mappings(self):
        return []

    def mapping_at(self, address):
        return None

    def bind(self, argument, vec):
        words = memoryview(argument).cast("Q")

        def call() -> int:
            self.calls.append((words[2] // PAGE, words[3] // PAGE))
            answer = self.answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            regions, walk_end = answer
            for index, (start, end) in enumerate(regions):
                vec[index] = (start * PAGE, end * PAGE, 2)
            struct.pack_into("=Q", argument, 32, walk_end * PAGE)
            return len(regions)

        return call

    def ioctl_scan(self, argument, vec):
        return self.bind(argument, vec)()


def walked(kernel: Any, end: int, vec_len: int, **masks) -> list[tuple[int, int]]:
    prepared = prepare_scan(kernel, 0, 0, vec_len=vec_len, **masks)
    return [(int(r["start"]) // PAGE, int(r["end"]) // PAGE) for r in prepared.walk(0, end * PAGE).to_records()]


class TestRepairs:
    def test_a_full_answer_resumes_behind_its_last_region(self):
        """walk_end is stale: it points to where the bounce buffer was last full."""
        first = [(2 * i, 2 * i + 1) for i in range(600)]
        kernel = Scripted([(first, 1023), ([(1300, 1301)], 2000)])
        assert walked(kernel, 2000, 600) == [*first, (1300, 1301)]
        assert kernel.calls == [(0, 2000), (1199, 2000)]

    def test_fewer_regions_than_asked_for_means_done_whatever_walk_end_says(self):
        gathered = PAGE // 8  # what the kernel gathers at a time: 512 regions for pages of 4 KiB
        first = [(2 * i, 2 * i + 1) for i in range(gathered + 1)]
        kernel = Scripted([(first, 2 * gathered)])
        assert walked(kernel, 4 * gathered, 8 * gathered) == first

    def test_no_progress_is_an_error_not_a_spin(self):
        kernel = Scripted([([], 0)])
        with pytest.raises(NoProgress, match="does not know"):
            walked(kernel, 512, 16)

    def test_a_fault_is_explained(self):
        kernel = Scripted([OSError(errno.ESRCH, "gone")])
        with pytest.raises(NoSuchProcess, match="exited"):
            walked(kernel, 512, 16)

    def test_an_error_without_a_better_name_is_passed_on(self):
        kernel = Scripted([OSError(errno.ENOMEM, "no memory")])
        with pytest.raises(OSError, match="no memory"):
            walked(kernel, 512, 16)

    def test_answers_of_many_regions_come_in_buffers_that_take_turns(self):
        """Each call is resumed where it ended itself, whatever a buffer still holds of an earlier walk."""
        room = 2100  # so many regions that they are not copied
        strides = (8, 2, 4, 2)  # the first walk's calls get furthest
        end, answers, starts = 8 * 3 * room, [], []
        for stride in strides:
            runs = [(stride * i, stride * i + 1) for i in range(3 * room)]
            calls = [runs[at : at + room] for at in range(0, 3 * room, room)]
            answers += [*((call, 0) for call in calls), ([], end)]
            starts += [0, *(call[-1][1] for call in calls)]
        kernel: Any = Scripted(answers)
        prepared = prepare_scan(kernel, 0, 0, vec_len=room, return_mask=Category.PRESENT)
        for stride in strides:
            found = prepared.walk(0, end * PAGE)
            assert (found.starts // PAGE).tolist() == list(range(0, stride * 3 * room, stride))
        assert kernel.calls == [(start, end) for start in starts]
