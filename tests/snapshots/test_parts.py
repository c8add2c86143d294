"""Many writers, one version: each prepares its part, one commits them all."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import subprocess
import sys

import numpy as np
import pytest

import pagescan
from pagescan import DataCorrupt, InvalidArgument, Prepared, VersionConflict
from pagescan.snapshots.base import GRACE_NS
from pagescan.snapshots.budget import Budget

from .conftest import needs_obstore

PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.usefixtures("tracking")


def filled(value: int, pages: int = 8) -> np.ndarray:
    array = pagescan.zeros(pages * PAGE, dtype=np.uint8)
    array[:] = value
    return array


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("memory", marks=needs_obstore),
        pytest.param("s3", marks=needs_obstore),
    ]
)
def url(request, tmp_path):
    """Where a store may be made: of each kind that differs in this."""
    if request.param == "s3":
        return request.getfixturevalue("s3_url")
    return tmp_path / "state.pagescan" if request.param == "sqlite" else f"memory://{secrets.token_hex(8)}"


class Rank:
    """A writer with a store handle and a buffer of its own, as another process would have."""

    def __init__(self, url, number: int, **options):
        self.store = pagescan.open_store(url)
        self.array = filled(number + 1)
        self.series = self.store.series("s", part=f"rank{number}", a=self.array, **options)

    def close(self) -> None:
        self.series.close()
        self.store.close()


@pytest.fixture
def ranks(url):
    ranks = [Rank(url, 0), Rank(url, 1)]
    yield ranks
    for rank in ranks:
        rank.close()


@pytest.fixture
def lead(url):
    with pagescan.open_store(url) as store:
        yield store


class TestOneVersionOfMany:
    def test_holds_every_part(self, ranks, lead):
        version = lead.commit([rank.series.prepare() for rank in ranks], note="both")
        assert (version.number, version.parent, version.note, version.written_pages) == (1, None, "both", 16)
        read = lead.read("s", version)
        assert {name: set(array.tolist()) for name, array in read.items()} == {"rank0/a": {1}, "rank1/a": {2}}

    def test_later_ones_write_what_changed_in_any_part(self, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].array[PAGE] = 77
        ranks[1].array[2 * PAGE] = 88
        ranks[1].array[5 * PAGE] = 99
        version = lead.commit([rank.series.prepare() for rank in ranks])
        assert (version.number, version.parent, version.written_pages) == (2, 1, 3)
        for number, rank in enumerate(ranks):
            assert np.array_equal(lead.read("s", 2)[f"rank{number}/a"], rank.array)
            assert set(lead.read("s", 1)[f"rank{number}/a"].tolist()) == {number + 1}
        assert not lead.verify().damage

    def test_each_restores_its_own_part(self, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        for rank in ranks:
            rank.array[:] = 0
        assert [rank.series.restore(1) for rank in ranks] == [8 * PAGE] * 2
        assert [set(rank.array.tolist()) for rank in ranks] == [{1}, {2}]
        assert lead.commit([rank.series.prepare() for rank in ranks]).written_pages == 0

    def test_one_part_can_be_read_alone(self, ranks, lead):
        version = lead.commit([rank.series.prepare() for rank in ranks])
        assert set(lead.read("s", part="rank1")["a"].tolist()) == {2}
        assert len(lead.contents("s", version, "rank1/").indexes) == 1
        with pytest.raises(InvalidArgument, match="no part 'rank2'"):
            lead.read("s", part="rank2")

    def test_damage_of_one_part_is_not_in_the_way_of_another(self, ranks, lead):
        version = lead.commit([rank.series.prepare() for rank in ranks])
        pack = lead.contents("s", version, "rank0/").manifest.packs[0]
        with lead.backend.batch():
            lead.backend.delete_packs([pack.name])
        with pytest.raises(DataCorrupt, match="missing"):
            ranks[0].series.restore(version)
        assert ranks[1].series.restore(version) == 0

    def test_goes_on_in_new_processes(self, url, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        again = [Rank(url, 0), Rank(url, 1)]
        again[1].array[3 * PAGE] = 5
        assert lead.commit([rank.series.prepare() for rank in again]).written_pages == 1
        for rank in again:
            rank.close()

    def test_many_versions_are_merged_by_each_part_for_itself(self, url, lead):
        budget = Budget(packs=3, overhead=0.5, spare=4)
        ranks = [Rank(url, 0, budget=budget), Rank(url, 1, budget=budget)]
        for step in range(8):
            for rank in ranks:
                rank.array[step % 8 * PAGE] = step + 100
            version = lead.commit([rank.series.prepare() for rank in ranks])
            assert version.packs <= 2 * 4
            for number, rank in enumerate(ranks):
                assert np.array_equal(lead.read("s", version)[f"rank{number}/a"], rank.array)
        assert not lead.verify().damage
        for rank in ranks:
            rank.close()


class TestPrepared:
    @pytest.mark.parametrize(
        "sent", [lambda p: pickle.loads(pickle.dumps(p)), lambda p: Prepared.from_json(p.to_json())]
    )
    def test_can_be_sent(self, ranks, lead, sent):
        prepared = ranks[0].series.prepare()
        assert sent(prepared) == prepared
        assert lead.commit([sent(prepared), sent(ranks[1].series.prepare())]).written_pages == 16

    def test_structured_dtype_can_be_sent(self, lead):
        array = np.zeros(10, [("a", "<i4"), ("b", "<f8", (2, 3))])
        array["a"] = 7
        with lead.series("s", part="x", a=array) as series:
            version = lead.commit([Prepared.from_json(series.prepare().to_json())])
        assert np.array_equal(lead.read("s", version)["x/a"], array)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"series": "s"}', '{"buffers": [], "packs": []}'])
    def test_another_text_is_refused(self, text):
        with pytest.raises(InvalidArgument, match="to_json"):
            Prepared.from_json(text)

    def test_is_small(self, ranks):
        ranks[0].array[::2] = np.random.default_rng(1).integers(0, 255, 4 * PAGE)
        assert len(ranks[0].series.prepare().to_json()) < 2000


class TestDue:
    """Pages stay due until their part is committed."""

    def test_pages_of_a_part_that_nobody_commits_come_again(self, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].array[PAGE] = 50
        ranks[0].series.prepare()
        ranks[0].array[2 * PAGE] = 60
        version = lead.commit([rank.series.prepare() for rank in ranks])
        assert version.written_pages == 2
        assert np.array_equal(lead.read("s", 2)["rank0/a"], ranks[0].array)

    def test_settle_tells_whether_it_was_committed(self, ranks, lead):
        series = ranks[0].series
        assert series.settle() is None
        parts = [rank.series.prepare() for rank in ranks]
        assert series.settle() is None
        version = lead.commit(parts)
        assert series.settle() == version
        assert series.settle() is None

    def test_after_settling_only_new_pages_are_due(self, ranks, lead, monkeypatch):
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].array[PAGE] = 50
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].series.settle()
        looked_at = []
        memory = ranks[0].series._memory[0]
        read = memory.read

        def looking(pages, size):
            looked_at.append(pages.tolist())
            return read(pages, size)

        monkeypatch.setattr(memory, "read", looking)
        ranks[0].array[3 * PAGE] = 60
        ranks[0].series.prepare()
        assert looked_at == [[3]]

    def test_restore_with_something_prepared_finds_what_was_written(self, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].series.settle()
        ranks[0].array[PAGE] = 50
        ranks[0].series.prepare()
        assert ranks[0].series.restore(1) == PAGE
        assert set(ranks[0].array.tolist()) == {1}

    def test_failed_prepare_leaves_them_due(self, ranks, lead, monkeypatch):
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].array[PAGE] = 50

        def full(*_):
            raise OSError("no space")

        monkeypatch.setattr(ranks[0].store.backend, "put_pack", full)
        with pytest.raises(OSError, match="no space"):
            ranks[0].series.prepare()
        monkeypatch.undo()
        assert lead.commit([rank.series.prepare() for rank in ranks]).written_pages == 1


class TestCommit:
    def test_again_with_the_same_parts_is_the_same_version(self, ranks, lead):
        parts = [rank.series.prepare() for rank in ranks]
        assert lead.commit(parts) == lead.commit(parts)
        assert [version.number for version in lead.versions("s")] == [1]

    def test_missing_part_is_an_error_unless_it_is_to_go(self, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        part = ranks[0].series.prepare()
        with pytest.raises(InvalidArgument, match="rank1/a"):
            lead.commit([part])
        assert set(lead.commit([part], relayout=True).buffers) == {"rank0/a"}

    def test_parts_of_different_versions_do_not_go_together(self, ranks, lead):
        parts = [rank.series.prepare() for rank in ranks]
        lead.commit(parts)
        with pytest.raises(InvalidArgument, match="same version"):
            lead.commit([ranks[0].series.prepare(), parts[1]])

    def test_two_parts_of_one_name_do_not_go_together(self, url, ranks, lead):
        twin = Rank(url, 0)
        with pytest.raises(InvalidArgument, match="two writers bring a buffer 'rank0/a'"):
            lead.commit([ranks[0].series.prepare(), twin.series.prepare()])
        twin.close()

    def test_older_parts_are_a_conflict(self, ranks, lead):
        lead.commit([rank.series.prepare() for rank in ranks])
        ranks[0].array[0] = 9
        old = [rank.series.prepare() for rank in ranks]
        lead.commit([rank.series.prepare() for rank in ranks])
        with pytest.raises(VersionConflict, match="another writer"):
            lead.commit(old)

    def test_parts_that_may_have_been_pruned_are_refused(self, ranks, lead, monkeypatch):
        parts = [rank.series.prepare() for rank in ranks]
        later = parts[0].time_ns + GRACE_NS // 2 + 1
        monkeypatch.setattr("pagescan.snapshots.commit.time.time_ns", lambda: later)
        if lead.backend.atomic:  # nothing is deleted while it commits, so it sees whether all is there
            assert lead.commit(parts).number == 1
        else:
            with pytest.raises(VersionConflict, match="half a day"):
                lead.commit(parts)

    def test_nothing_is_refused(self, lead):
        with pytest.raises(InvalidArgument, match="nothing"):
            lead.commit([])

    def test_part_by_itself_makes_no_version(self, ranks):
        with pytest.raises(InvalidArgument, match=r"store\.commit"):
            ranks[0].series.commit()

    @pytest.mark.parametrize("name", ["", "a/b"])
    def test_name_of_a_part(self, lead, name):
        with pytest.raises(InvalidArgument, match="part ="):
            lead.series("s", part=name, a=filled(1))


WORKER = """
import json, sys
import numpy as np, pagescan
url, rank = json.loads(sys.argv[1]), int(sys.argv[2])
array = pagescan.zeros(8 * 4096, dtype=np.uint8)
array[:] = rank + 1
with pagescan.open_store(url) as store, store.series("s", part=f"rank{rank}", a=array) as series:
    for line in sys.stdin:
        if line == "prepare\\n":
            array[int(rank) * 4096] += 10
            print(series.prepare().to_json(), flush=True)
        else:
            version = series.settle()
            print(version.number if version else None, flush=True)
"""


class TestProcesses:
    @pytest.mark.parametrize("kind", ["sqlite", pytest.param("s3", marks=needs_obstore)])
    def test_processes_make_versions_together(self, kind, request, tmp_path):
        url = request.getfixturevalue("s3_url") if kind == "s3" else str(tmp_path / "state.pagescan")
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, json.dumps(url), str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]

        def ask(word: str) -> list[str]:
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(word + "\n")
                worker.stdin.flush()
            return [worker.stdout.readline() for worker in workers if worker.stdout is not None]

        with pagescan.open_store(url) as store:
            pages = []
            for _ in range(2):
                version = store.commit([Prepared.from_json(text) for text in ask("prepare")])
                pages.append(version.written_pages)
                assert ask("settle") == [f"{version.number}\n"] * 2
            read = store.read("s")
        for worker in workers:
            worker.communicate(timeout=30)
            assert worker.returncode == 0
        assert pages == [16, 2]
        assert [int(read[f"rank{rank}/a"][rank * 4096]) for rank in (0, 1)] == [21, 22]
