"""The file of a recording: what it holds, whom it lets in, and what a failure leaves of it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagescan.errors import AlreadyExists, Closed, InvalidArgument, PagescanError
from pagescan.ranges import Regions
from pagescan.recording import Recording, RecordingWriter
from pagescan.trackers.written import Quality

from .samples import FILE, GROWN, HEAP, INFO, MS, PAGE, append, pages, three


def query(path: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_documented_tables(tmp_path: Path) -> None:
    """As another program reads the file, which has nothing but the format's page."""
    path = tmp_path / "r"
    with three(path):
        pass
    assert query(path, "PRAGMA application_id") == [(0x50675363,)]
    assert query(path, "PRAGMA user_version") == [(1,)]
    info = dict(query(path, "SELECT name, value FROM info"))
    assert info["command_line"] == b"prog\0-x\0\0a\xffb\0"
    assert (info["pid"], info["page_size"], info["started_ns"]) == (4711, 4096, 1000 * MS)
    scalars = "number, time_ns, duration_ns, pause_ns, quality, reason, resident_pages, regions, pages, unknown"
    assert query(path, f"SELECT {scalars} FROM sample") == [
        (0, 1100 * MS, 7, 3, 0, "", 40, 2, 3, 0),
        (1, 1200 * MS, 7, 0, 0, "", None, 0, 0, 0),
        (2, 1300 * MS, 7, 0, 0, "", None, 2, 2, 0),
    ]
    assert query(path, 'SELECT id, appeared, vanished, start, "end", inode, name FROM mapping ORDER BY id') == [
        (1, 0, 1, 0x10000, 0x20000, 0, b"[heap]"),
        (2, 0, 2, 0x7F0000000000, 0x7F0000008000, -5, b"/srv/a\xff b"),
        (3, 0, None, -10485760, -10481664, 0, b"[vsyscall]"),
        (4, 1, None, 0x10000, 0x30000, 0, b"[heap]"),
    ]
    assert query(path, "SELECT reason, detail FROM ending") == [("closed", "")]


def test_one_plain_private_file_once_closed(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with three(tmp_path / "r"):
            assert names(tmp_path) == ["r", "r-shm", "r-wal"]
            modes = {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
            assert modes == {0o600}
    finally:
        os.umask(before)
    assert names(tmp_path) == ["r"]
    assert query(tmp_path / "r", "PRAGMA journal_mode") == [("delete",)]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text("precious")
    with pytest.raises(AlreadyExists, match="force"):
        RecordingWriter(path, INFO)
    assert path.read_text() == "precious"
    assert names(tmp_path) == ["r"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(AlreadyExists):
        RecordingWriter(tmp_path / "link", INFO)


def test_force_overwrites_and_takes_no_foreign_wal(tmp_path: Path) -> None:
    path = tmp_path / "r"
    old = three(path)
    (tmp_path / "copy").write_bytes((tmp_path / "r-wal").read_bytes())
    old.close()
    (tmp_path / "copy").rename(tmp_path / "r-wal")  # what a crash and a restored backup may leave
    with RecordingWriter(path, INFO, force=True) as writer:
        append(writer, pages(5))
    with Recording.open(path) as recording:
        assert [sample.regions for sample in recording] == [pages(5)]
        assert recording.mappings == []


def test_a_wal_without_its_file_is_not_taken_in(tmp_path: Path) -> None:
    (tmp_path / "r-wal").write_bytes(b"something")
    with pytest.raises(AlreadyExists, match="left"):
        RecordingWriter(tmp_path / "r", INFO)
    assert names(tmp_path) == ["r-wal"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to know whether the writer lives")
def test_a_growing_recording_is_never_overwritten(tmp_path: Path) -> None:
    with three(tmp_path / "r"):
        with pytest.raises(AlreadyExists, match="still writing"):
            RecordingWriter(tmp_path / "r", INFO, force=True)
        with Recording.open(tmp_path / "r") as recording:
            assert len(recording) == 3


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="mkdir -p") as caught:
        RecordingWriter(tmp_path / "none" / "r", INFO)
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(InvalidArgument, match="is a folder"):
        RecordingWriter(tmp_path, INFO)


def test_names_that_are_not_utf8_or_look_like_uris(tmp_path: Path) -> None:
    for name in ("a\udcffb", "a?mode=ro#x%41"):
        three(tmp_path / name).close()
        with Recording.open(tmp_path / name) as recording:
            assert len(recording[0].mappings) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time_ns": 1099 * MS}, "before the last sample"),
        ({"regions": Regions([(1, 2, 0)])}, "whole pages"),
        ({"regions": Regions([(0, 8192, 0)], page_size=8192)}, "pages of 4096"),
    ],
)
def test_values_that_cannot_be_leave_the_file_as_it_was(tmp_path: Path, values: Any, message: str) -> None:
    good: dict[str, Any] = {"regions": pages(1), "time_ns": 1100 * MS, "wall_ns": 0, "duration_ns": 0}
    with RecordingWriter(tmp_path / "r", INFO) as writer:
        writer.append(**good)
        with pytest.raises(InvalidArgument, match=message):
            writer.append(**(good | values))
        assert writer.append(**good) == 1
    with Recording.open(tmp_path / "r") as recording:
        assert recording.times.tolist() == [1100 * MS] * 2


def test_a_value_that_sqlite_refuses_takes_nothing_of_the_sample_in(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", INFO) as writer:
        with pytest.raises(PagescanError, match="cannot write"):
            append(writer, pages(1), mappings=[HEAP], duration_ns=1 << 70)
        append(writer, pages(2), mappings=[FILE])
    with Recording.open(tmp_path / "r") as recording:
        assert [span.mapping for span in recording.mappings] == [FILE]
        assert recording[0].regions == pages(2)


def test_a_full_disk_loses_only_the_sample_that_did_not_fit(tmp_path: Path) -> None:
    big = Regions.from_pages(np.cumsum(np.random.default_rng(1).integers(2, 9999, 4000)) * PAGE)
    with RecordingWriter(tmp_path / "r", INFO) as writer:
        append(writer, pages(1))
        assert writer._connection is not None
        (now,) = writer._connection.execute("PRAGMA page_count").fetchone()
        writer._connection.execute(f"PRAGMA max_page_count = {now}")
        with pytest.raises(PagescanError, match="no space is left") as caught:
            append(writer, big)
        assert caught.value.errno == errno.ENOSPC
        assert append(writer, pages(2)) == 1
    with Recording.open(tmp_path / "r") as recording:
        assert [sample.regions for sample in recording] == [pages(1), pages(2)]


def test_how_a_recording_ends(tmp_path: Path) -> None:
    def end(name: str, error: BaseException | None) -> tuple[str, str]:
        with contextlib.suppress(KeyboardInterrupt, RuntimeError), RecordingWriter(tmp_path / name, INFO):
            if error:
                raise error
        with Recording.open(tmp_path / name) as recording:
            assert recording.ending is not None
            return recording.ending.reason, recording.ending.detail

    assert end("a", None) == ("closed", "")
    assert end("b", KeyboardInterrupt()) == ("interrupted", "")
    assert end("c", RuntimeError("lost it")) == ("error", "RuntimeError: lost it")


def test_close_twice_and_use_afterwards(tmp_path: Path) -> None:
    writer = three(tmp_path / "r")
    writer.close("duration", "3 samples")
    writer.close("error")
    with pytest.raises(Closed):
        append(writer, pages(1))
    with Recording.open(tmp_path / "r") as recording:
        assert recording.ending is not None
        assert (recording.ending.reason, recording.ending.detail) == ("duration", "3 samples")


class InterruptAfterCommit:
    """A connection after whose next COMMIT a Ctrl-C arrives."""

    def __init__(self, real: sqlite3.Connection):
        self.real, self.armed = real, True

    def execute(self, sql: str, *more: Any) -> Any:
        answer = self.real.execute(sql, *more)
        if sql == "COMMIT" and self.armed:
            self.armed = False
            raise KeyboardInterrupt
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_ctrl_c_just_after_a_commit_counts_the_sample(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", INFO) as writer:
        writer._connection = InterruptAfterCommit(writer._connection)  # type: ignore[assignment, arg-type]
        with pytest.raises(KeyboardInterrupt):
            append(writer, pages(1), mappings=[HEAP])
        assert writer.append(pages(2), time_ns=1300 * MS, wall_ns=0, duration_ns=0, mappings=[GROWN]) == 1
    with Recording.open(tmp_path / "r") as recording:
        assert [sample.regions for sample in recording] == [pages(1), pages(2)]
        assert [tuple(span) for span in recording.mappings] == [(HEAP, 0, 1), (GROWN, 1, None)]


def expected(number: int) -> tuple[Regions, Quality]:
    """What the killed writer writes as sample ``number``."""
    drawn = np.random.default_rng(number).integers(1, 1 << 20, 1 + number % 700)
    return Regions.from_pages(np.unique(drawn) * PAGE, 2), list(Quality)[number % 3]


def in_child(work: Callable[[], None]) -> int:
    """The pid of a child that does the work and nothing else."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def write_for_ever(path: Path, told: int) -> None:
    writer = RecordingWriter(path, INFO)
    os.write(told, b".")
    while True:
        number = len(writer)
        regions, quality = expected(number)
        heap = HEAP if number % 5 else GROWN
        append(writer, regions, quality=quality, reason="because" if number % 3 else "", mappings=[heap])
        os.write(told, b".")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", range(12))
def test_a_writer_killed_at_any_moment_leaves_every_whole_sample(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "r"
    listening, told = os.pipe()
    pid = in_child(lambda: write_for_ever(path, told))
    os.close(told)
    heard = 0
    with open(listening, "rb", buffering=0) as pipe:
        for _ in range(chance.choice([1, 2, 3, 40, 300])):
            heard += len(pipe.read(1))
        stop = time.perf_counter() + chance.random() / 500
        while time.perf_counter() < stop:  # into the middle of whatever it does next
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        heard += len(pipe.read() or b"")
    with Recording.open(path) as recording:
        # Whether the writer still runs is known on Linux.
        assert (recording.growing, recording.ending) == (False if sys.platform == "linux" else None, None)
        assert recording.verify() == []
        # What was told of was committed; one more may have been committed and not told.
        assert len(recording) - (heard - 1) in (0, 1)
        for sample in recording:
            assert (sample.regions, sample.quality) == expected(sample.number)
            assert sample.mappings == (HEAP if sample.number % 5 else GROWN,)
