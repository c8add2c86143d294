"""What a store survives: being killed, a full disk, flipped bits, and other writers. The long forms are scripts."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pytest

import pagescan
from pagescan import DataCorrupt, VersionConflict

from . import flipping, killing

PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.usefixtures("tracking")


def test_killed_commits_lose_nothing(tmp_path):
    report = killing.run(4, tmp_path, seed=11)
    assert report.wrong == []
    assert report.inside == 4
    assert report.versions > 0


@pytest.mark.parametrize("size", [600_000, 3_000_000])
def test_full_disk_loses_nothing(size):
    try:
        _, failed = killing.fill(size, size)
    except OSError as error:
        pytest.skip(f"full disks: {error}")
    assert failed == 3


def test_flipped_bits_are_found_or_harmless():
    report = flipping.run(60, seed=5)
    assert report.wrong == []
    assert report.outcomes["found by verify and named the version and the buffer"] > 0


def test_damaged_frame_names_version_and_buffer_and_the_others_read(tmp_path):
    path = tmp_path / "s" / "state.pagescan"
    path.parent.mkdir()
    contents = flipping.make(path)
    # The last version's own noise, which no other version needs.
    needle = contents["training", 4]["noise"][21 * PAGE : 22 * PAGE].tobytes()
    data = path.read_bytes()
    # SQLite cuts a frame into pages of its own: a short part is enough to find it.
    at = data.index(needle[1000:1100])
    path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    with pagescan.open_store(path) as store:
        found = store.verify()
        assert {(d.series, d.version, d.buffer) for d in found.damage} == {("training", 4, "noise")}
        assert "version 4 of 'training', buffer 'noise'" in str(found.damage[0])
        with pytest.raises(DataCorrupt, match="version 4 of 'training', buffer 'noise'") as caught:
            store.read("training", 4)
        assert (caught.value.series, caught.value.version, caught.value.buffer) == ("training", 4, "noise")
        for number in (1, 2, 3):
            read = store.read("training", number)
            assert np.array_equal(read["noise"], contents["training", number]["noise"])
        noise = pagescan.zeros(40 * PAGE, dtype=np.uint8)
        steps = pagescan.zeros(8 * PAGE, dtype=np.int32)
        with store.series("training", noise=noise, steps=steps) as series:
            with pytest.raises(DataCorrupt):
                series.restore(4)
            assert not noise.any(), "a damaged version was partly restored"
            series.restore(3)
            assert np.array_equal(noise, contents["training", 3]["noise"])


def commit_often(path, name, count, seed):
    """In a process of its own: commits to a series, starting again where another writer was faster."""
    array = pagescan.zeros(32 * PAGE, dtype=np.uint8)
    chance = np.random.default_rng(seed)
    made = 0
    with pagescan.open_store(path) as store, store.series(name, a=array) as series:
        while made < count:
            array[chance.integers(0, len(array))] += 1
            array[:8] = np.frombuffer(np.uint64(seed << 32 | made).tobytes(), np.uint8)
            try:
                series.commit(note=f"{seed} {made}")
                made += 1
            except VersionConflict:
                series.refresh()


class TestTwoProcesses:
    @pytest.mark.parametrize("names", [("one", "two"), ("same", "same")], ids=["own series", "same series"])
    def test_lose_nothing(self, path, names):
        context = multiprocessing.get_context("forkserver")
        writers = [
            context.Process(target=commit_often, args=(path, name, 15, seed)) for seed, name in enumerate(names, 1)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(50)
        assert [writer.exitcode for writer in writers] == [0, 0]
        with pagescan.open_store(path) as store:
            assert store.verify()
            notes = [(name, version.note) for name in store.names() for version in store.versions(name)]
            wanted = [(name, f"{seed} {made}") for seed, name in enumerate(names, 1) for made in range(15)]
            assert sorted(notes) == sorted(wanted)
            for name in store.names():
                for version in store.versions(name):
                    seed, made = map(int, version.note.split())
                    array = store.read(name, version)["a"]
                    assert int(array[:8].view(np.uint64)[0]) == seed << 32 | made


def test_store_opened_before_a_fork_says_so_in_the_child(path):
    array = pagescan.zeros(10)
    with pagescan.open_store(path) as store, store.series("s", a=array) as series:
        series.commit()

        def work():
            with pytest.raises(pagescan.Closed, match="forked"):
                store.names()
            store.close()
            os._exit(0)

        child = os.fork()
        if child == 0:
            killing.in_child(work)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        array[0] = 1
        assert series.commit().number == 2
