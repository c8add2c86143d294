"""``pagescan cow``: what a forked process un-shares, by interval and by mapping."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys

import numpy as np

from pagescan import cow_meter
from pagescan.cli.cow import Course, follow, print_end
from pagescan.recording.watch import Happened
from tests.test_cow import PAGE, PAGES, _scanning, array, child_of, write

__all__ = ["_scanning", "array", "child_of"]  # fixtures


def options(**given):
    return argparse.Namespace(**{"pid": 1, "interval": 10**6, "duration": None, "json": False, "all": False} | given)


def steps(child, count, then):
    """A wait that lets the child take ``count`` steps, one an interval, and then ends by ``then``."""
    left = [child.step] * count

    def wait(until_ns):
        if not left:
            return then
        left.pop()()
        return Happened.DUE

    return wait


def row_of(document, array):
    base = array.ctypes.data
    (row,) = [row for row in document["mappings"] if int(row["start"], 16) <= base < int(row["end"], 16)]
    return row


class TestFollowing:
    def test_each_interval_and_the_sum_by_mapping(self, array, child_of, capsys):
        child = child_of(write(array, 1, 2, 3), write(array, 3, 4))
        with cow_meter(child.pid) as meter:
            course = Course(meter.last)
            reason = follow(meter, steps(child, 2, Happened.STOPPED), course, options())
        document = course.document(child.pid, reason)
        assert reason == document["ended"] == "interrupted"
        assert len(document["samples"]) == 4  # at the beginning, after each step, at the end
        assert [sample["at_ns"] for sample in document["samples"]] == sorted(s["at_ns"] for s in document["samples"])
        row = row_of(document, array)
        assert row["unshared"] >= 4 * PAGE
        assert row["shared"] + row["alone"] <= int(row["end"], 16) - int(row["start"], 16)
        totals = document["totals"]
        assert totals["unshared"] == sum(sample["unshared"] for sample in document["samples"])
        assert totals["unshared"] == sum(one["unshared"] for one in document["mappings"])
        assert totals["shared"] == document["samples"][-1]["shared"] == sum(m["shared"] for m in document["mappings"])
        assert len(capsys.readouterr().out.splitlines()) == 3

    def test_the_time_is_over(self, array, child_of):
        child = child_of()
        with cow_meter(child.pid) as meter:
            course = Course(meter.last)
            assert follow(meter, lambda until: Happened.DUE, course, options(duration=1, json=True)) == "duration"
            assert len(course.samples) == 1

    def test_the_process_exits(self, array, child_of, capsys):
        child = child_of()
        with cow_meter(child.pid) as meter:
            course = Course(meter.last)
            assert follow(meter, lambda until: Happened.EXITED, course, options()) == "exited"
        print_end(course, options(), "exited")
        out, err = capsys.readouterr()
        assert "nothing un-shared in 0 ns" in out
        assert "has exited" in err

    def test_the_table_names_what_unshared_most_first(self, array, child_of, capsys, monkeypatch):
        child = child_of(write(array, *range(30)))
        with cow_meter(child.pid) as meter:
            course = Course(meter.last)
            follow(meter, steps(child, 1, Happened.EXITED), course, options())
        capsys.readouterr()
        monkeypatch.setenv("COLUMNS", "90")
        print_end(course, options(), "duration")
        lines = capsys.readouterr().out.splitlines()
        assert " ".join(lines[1].split()) == "START PERM SIZE UNSHARED PER SEC COPIED SHARED ALONE MAPPING"
        sizes = [row[3] for row in course.rows()]
        assert sizes == sorted(sizes, reverse=True)
        assert lines[2].split()[0] == f"{course.rows()[0][0].start:012x}"
        assert all(len(line) <= 90 for line in lines)
        shown = sum(size > 0 for size in sizes)
        assert f"{len(sizes) - shown} mappings un-shared nothing (--all)" in lines
        assert lines[-1].startswith("process 1: ")
        print_end(course, options(all=True), "duration")
        assert len(capsys.readouterr().out.splitlines()) == len(sizes) + 3


class TestCommand:
    def test_json(self, run, array, child_of):
        child = child_of()
        done = run("cow", "-p", child.pid, "-i", "10ms", "-d", "25ms", "--json")
        assert (done.code, done.err) == (0, "")
        document = done.json()
        assert (document["schema"], document["version"], document["ended"]) == ("pagescan.cow", 1, "duration")
        assert document["target"] == {"pid": child.pid}
        assert document["page_size"] == PAGE
        assert row_of(document, array)["shared"] >= PAGES // 2 * PAGE
        assert document["elapsed_ns"] >= 25 * 10**6

    def test_a_process_that_shares_nothing_is_told(self, run, target):
        done = run("cow", "-p", target.pid, "-i", "10ms", "-d", "10ms")
        assert done.code == 0
        assert "shares no private page" in done.err
        assert " ".join(done.out.splitlines()[0].split()) == "TIME UNSHARED PER SEC COPIED SHARED ALONE"

    def test_ctrl_c_ends_it_with_the_table(self, child_of):
        child = child_of()
        command = [sys.executable, "-m", "pagescan", "cow", "-p", str(child.pid), "-i", "10s"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            first = [process.stdout.readline(), process.stdout.readline()]
            process.send_signal(2)
            out, err = process.communicate(timeout=30)
        assert first[0].split()[0] == "TIME"
        assert re.search(rf"^process {child.pid}: .* un-shared in .* still shared$", out, re.MULTILINE)
        assert process.returncode == 0, err

    def test_wrong_use(self, run):
        assert run("cow").code == 2
        assert run("cow", "-p", "1", "-i", "1ms").code == 2
        assert run("cow", "-p", str(1 << 22)).code == 3

    def test_without_frame_numbers_it_says_so(self, array, child_of, capsys, monkeypatch):
        monkeypatch.setattr("pagescan.cow._FRAME", np.uint64(0))
        child = child_of(write(array, 1))
        with cow_meter(child.pid) as meter:
            course = Course(meter.last)
            follow(meter, steps(child, 1, Happened.EXITED), course, options(pid=os.getpid()))
        print_end(course, options(), "duration")
        out, err = capsys.readouterr()
        assert course.total_copied is None
        assert "COPIED is not known" in err
        assert course.rows()[0][4] is None
        assert out.splitlines()[0].split()[-3] == "-"
