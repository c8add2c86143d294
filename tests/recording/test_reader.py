"""Reading a recording: whole, in part, damaged, and while it grows."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.errors import Closed, DataCorrupt, InvalidArgument
from pagescan.ranges import Regions
from pagescan.recording import Recording, RecordingInfo, RecordingWriter, follow
from pagescan.trackers.written import Quality

from .samples import FILE, GROWN, HEAP, INFO, MS, PAGE, VSYSCALL, append, pages, three


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    three(tmp_path / "r").close("exited")
    with Recording.open(tmp_path / "r") as opened:
        yield opened


def test_info_and_arrays(recording: Recording) -> None:
    assert recording.info == INFO
    assert recording.times.tolist() == [1100 * MS, 1200 * MS, 1300 * MS]
    assert recording.wall_times.tolist() == [5_000_100 * MS, 5_000_200 * MS, 5_000_300 * MS]
    assert recording.durations.tolist() == [7, 7, 7]
    assert recording.pauses.tolist() == [3, 0, 0]
    assert recording.page_counts.tolist() == [3, 0, 2]
    assert recording.region_counts.tolist() == [2, 0, 2]
    assert recording.resident_pages.tolist() == [40, -1, -1]
    assert recording.qualities == [Quality.EXACT] * 3
    assert (recording.growing, recording.ending and recording.ending.reason) == (False, "exited")


def test_samples(recording: Recording) -> None:
    first, second, third = recording
    assert first.regions == pages(16, 17, 19)
    assert (first.number, first.time_ns, first.pause_ns, first.resident_pages) == (0, 1100 * MS, 3, 40)
    assert second.regions == Regions.empty()
    assert third == recording[2] == recording[-1]
    assert [s.number for s in recording.samples(1)] == [1, 2]
    assert [s.number for s in recording.samples(-2, -1)] == [1]
    with pytest.raises(IndexError):
        recording[3]


def test_mappings(recording: Recording) -> None:
    assert [s.mappings for s in recording] == [(HEAP, FILE, VSYSCALL), (GROWN, FILE, VSYSCALL), (GROWN, VSYSCALL)]
    assert recording.mappings_at(-1) == (GROWN, VSYSCALL)
    assert recording.mappings_at(0) == (HEAP, FILE, VSYSCALL)
    lives = [(FILE, 0, 2), (GROWN, 1, None), (HEAP, 0, 1), (VSYSCALL, 0, None)]
    assert sorted((tuple(span) for span in recording.mappings), key=str) == sorted(lives, key=str)


def test_all_regions_in_one_array(recording: Recording) -> None:
    table = recording.records()
    assert table.offsets.tolist() == [0, 2, 2, 4]
    assert table.records["start"].tolist() == [16 * PAGE, 19 * PAGE, 32 * PAGE, 0x7F0000000000]
    assert table.damaged == ()
    assert recording.records(1, 2).offsets.tolist() == [0, 0]


SAMPLE = st.tuples(
    st.lists(st.integers(0, (1 << 52) - 2), max_size=20),
    st.integers(0, 1 << 50),
    st.sampled_from(Quality),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.none() | st.integers(0, 1 << 40),
    st.none() | st.sets(st.sampled_from([HEAP, FILE, VSYSCALL, GROWN])),
)


@given(st.lists(SAMPLE, max_size=8))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, samples: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("r") / "r"
    alive: set = set()
    wanted = []
    with RecordingWriter(path, INFO) as writer, Recording.open(path) as growing:
        for numbers, duration, quality, reason, resident, mappings in samples:
            alive = alive if mappings is None else mappings
            regions = pages(*numbers)
            more = {"duration_ns": duration, "quality": quality, "reason": reason, "resident_pages": resident}
            append(writer, regions, mappings=None if mappings is None else list(mappings), **more)
            wanted.append((regions, duration, quality, reason, resident, alive))
            assert growing.refresh() == 1
        with Recording.open(path) as again:
            for recording in (growing, again):
                found = [
                    (s.regions, s.duration_ns, s.quality, s.reason, s.resident_pages, set(s.mappings))
                    for s in recording
                ]
                assert found == wanted


# Damage


def damage(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


def test_a_damaged_blob_is_named_and_the_others_are_read(recording: Recording) -> None:
    damage(recording.path, "UPDATE sample SET lengths = substr(lengths, 1, 12) || x'ff' WHERE number = 0")
    with pytest.raises(DataCorrupt) as caught:
        list(recording)
    assert (caught.value.sample, caught.value.column) == (0, "lengths")
    with pytest.raises(DataCorrupt, match="sample 0, column lengths"):
        recording.records()
    assert [s.number for s in recording.samples(damaged="skip")] == [1, 2]
    assert recording[2].regions == pages(32, 0x7F0000000)
    table = recording.records(damaged="skip")
    assert table.offsets.tolist() == [0, 0, 0, 2]
    assert [error.sample for error in recording.verify()] == [error.sample for error in table.damaged] == [0]


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        ("UPDATE sample SET pages = 4 WHERE number = 0", "pages"),
        ("UPDATE sample SET regions = 1 WHERE number = 0", "regions"),
        ("UPDATE sample SET gaps = (SELECT gaps FROM sample WHERE number = 2) WHERE number = 0", "gaps"),
        ("UPDATE sample SET categories = 'text' WHERE number = 0", "categories"),
    ],
)
def test_rows_that_do_not_fit_their_blobs(recording: Recording, sql: str, column: str) -> None:
    path = recording.path
    damage(path, sql)
    with Recording.open(path) as again:
        with pytest.raises(DataCorrupt) as caught:
            again[0]
        assert (caught.value.sample, caught.value.column) == (0, column)
        assert again[2].regions == pages(32, 0x7F0000000)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM sample WHERE number = 1",
        "DELETE FROM info WHERE name = 'page_size'",
        "UPDATE info SET value = 4095 WHERE name = 'page_size'",
        "UPDATE mapping SET start = 'here' WHERE id = 1",
        "UPDATE sample SET time_ns = 'now' WHERE number = 1",
        "DROP TABLE mapping",
    ],
)
def test_a_file_that_makes_no_sense_as_a_whole(recording: Recording, sql: str) -> None:
    damage(recording.path, sql)
    with pytest.raises(DataCorrupt):
        Recording.open(recording.path)


def test_files_that_are_no_recordings(tmp_path: Path, recording: Recording) -> None:
    whole = recording.path.read_bytes()
    for name, content in {"empty": b"", "text": b"hello\n" * 1000, "half": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataCorrupt), Recording.open(tmp_path / name) as opened:
            list(opened)
    damage(tmp_path / "other", "CREATE TABLE sample (number)")
    with pytest.raises(DataCorrupt, match="no recording of pagescan"):
        Recording.open(tmp_path / "other")
    damage(recording.path, "PRAGMA user_version = 2")
    with pytest.raises(InvalidArgument, match="format 2"):
        Recording.open(recording.path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="there is no recording") as caught:
        Recording.open(tmp_path / "none")
    assert caught.value.errno == errno.ENOENT
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidArgument, match="no regular file"):
        Recording.open(tmp_path)


def test_a_later_writer_may_add_what_is_not_known_here(recording: Recording) -> None:
    damage(recording.path, "ALTER TABLE sample ADD COLUMN later INTEGER")
    damage(recording.path, "INSERT INTO info VALUES ('later', 1)")
    with Recording.open(recording.path) as again:
        assert [s.regions.page_count for s in again] == [3, 0, 2]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be somebody else in a child"
)
@pytest.mark.parametrize("closed", [True, False])
def test_reading_in_a_folder_one_may_not_write_to(closed: bool) -> None:
    """A closed recording is one plain file; an unfinished one needs its -shm, and the error says so."""
    # pytest's own folders let nobody else through.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = three(folder / "r")
        kept = {file: (folder / file).read_bytes() for file in ("r", "r-wal")}
        writer.close()
        if not closed:
            for file, content in kept.items():
                (folder / file).write_bytes(content)
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        code = "import sys, os, numpy; from pagescan import AccessDenied; from pagescan.recording import Recording\n"
        code += "os.setuid(65534)\n"
        code += "try: print(len(Recording.open(sys.argv[1])))\nexcept AccessDenied as error: print(error.hint)"
        run = subprocess.run([sys.executable, "-c", code, str(folder / "r")], capture_output=True, text=True)
        assert run.stdout.startswith("3\n" if closed else "cp "), run.stdout + run.stderr
        assert sorted(p.name for p in folder.iterdir()) == (["r"] if closed else ["r", "r-wal"])


# While it grows


def test_a_reader_sees_what_it_knew_until_it_refreshes(tmp_path: Path) -> None:
    with three(tmp_path / "r") as writer, Recording.open(tmp_path / "r") as recording:
        assert recording.growing is not False
        append(writer, pages(9), mappings=[HEAP])
        assert (len(recording), len(list(recording))) == (3, 3)
        assert recording.mappings_at(-1) == (GROWN, VSYSCALL)
        assert recording.refresh() == 1
        assert (recording[-1].regions, recording[-1].mappings) == (pages(9), (HEAP,))
        assert recording.mappings_at(2) == (GROWN, VSYSCALL)
        writer.close("duration")
        assert recording.ending is None
        assert recording.refresh() == 0
        assert recording.ending is not None


def test_arrays_stay_as_they_were(recording: Recording) -> None:
    times = recording.times
    recording.close()
    assert times.tolist() == [1100 * MS, 1200 * MS, 1300 * MS]
    with pytest.raises(ValueError, match="read-only"):
        times[0] = 1
    with pytest.raises(Closed):
        recording.refresh()


def test_follow_gives_each_sample_once_and_ends_with_the_recording(tmp_path: Path) -> None:
    writer = three(tmp_path / "r")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        """What happens while the reader waits: two samples, one, nothing, the end."""
        waits.append(seconds)
        match len(waits):
            case 1:
                append(writer, pages(4))
                append(writer, pages(5))
            case 2:
                append(writer, pages(6))
            case 4:
                writer.close()

    with Recording.open(tmp_path / "r") as recording:
        assert [s.number for s in recording.follow(1, wait=wait)] == [1, 2, 3, 4, 5]
    assert len(waits) == 4


def test_follow_gives_up_when_nothing_comes(tmp_path: Path) -> None:
    waits: list[float] = []
    with three(tmp_path / "r"), Recording.open(tmp_path / "r") as recording:
        assert [s.number for s in recording.follow(timeout=5, wait=waits.append)] == [0, 1, 2]
    assert 5 <= sum(waits) < 7
    assert max(waits) == 1.0
    assert len(waits) < 12


def test_follow_ends_when_the_writer_is_gone(tmp_path: Path, recording: Recording) -> None:
    damage(recording.path, "DELETE FROM ending")
    # This boot and this pid namespace, and a process that cannot be.
    damage(recording.path, "UPDATE info SET value = rtrim(value, '0123456789') || '0' WHERE name = 'writer'")
    with Recording.open(recording.path) as again:
        if again.growing is None:
            pytest.skip("needs /proc to know whether the writer lives")
        waits: list[float] = []
        assert len(list(again.follow(wait=waits.append))) == 3
        assert waits == []


@pytest.mark.parametrize(
    ("interval_ms", "before_ms", "since_last_ms", "wanted_ms"),
    [
        (100, 0, 30, 70),  # due in 70 ms
        (100, 0, 99, 12.5),  # almost due: an eighth of the interval at least
        (100, 0, 500, 12.5),  # late
        (100, 12.5, 500, 25),  # and later
        (100, 900, 5000, 1000),  # never rarer than once a second
        (1, 0, 0, 10),  # never more often than every 10 ms
        (60_000, 0, 1000, 59_000),
        (60_000, 7500, 61_000, 7500),
        (100, 0, -100_000, 100),  # another machine's clock: an interval at most
    ],
)
def test_when_to_look_again(
    tmp_path: Path, interval_ms: float, before_ms: float, since_last_ms: float, wanted_ms: float
) -> None:
    values = {name: getattr(INFO, name) for name in INFO.__slots__} | {"interval_ns": interval_ms * MS}
    with RecordingWriter(tmp_path / "r", RecordingInfo(**values)) as writer:
        append(writer, pages())
        with Recording.open(tmp_path / "r") as recording:
            now = int(recording.times[-1] + since_last_ms * MS)
            assert follow.next_wait(recording, int(before_ms * MS), now) == wanted_ms * MS
