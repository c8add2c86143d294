"""Verify, prune, copy, and how long a chain of packs gets."""

from __future__ import annotations

import os

import numpy as np
import pytest

import pagescan
from pagescan import InvalidArgument, NoSuchVersion, VersionConflict
from pagescan.snapshots.budget import Budget, to_merge

PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.usefixtures("tracking")


@pytest.fixture
def array():
    array = pagescan.zeros(16 * PAGE, dtype=np.uint8)
    array[:] = np.random.default_rng(7).integers(1, 255, array.nbytes, dtype=np.uint8)
    return array


def commits(store, array, count):
    """So many versions, each of another page; returns their contents."""
    kept = {}
    with store.series("s", a=array) as series:
        for number in range(count):
            array[number % 16 * PAGE] ^= 1
            kept[series.commit().number] = array.copy()
    return kept


class TestVerify:
    def test_counts(self, store, array):
        commits(store, array, 3)
        seen = []
        found = store.verify(progress=lambda done, total: seen.append((done, total)))
        assert found
        assert (found.versions, found.packs, found.orphans, found.damage) == (3, 3, 0, ())
        assert seen[-1] == (found.nbytes, found.nbytes)

    def test_missing_pack_is_named_by_every_version_that_needs_it(self, store, array):
        commits(store, array, 3)
        with store.backend.batch():
            store.backend.delete_packs([store.contents("s", 2).manifest.packs[-1].name])
        assert [(d.series, d.version) for d in store.verify().damage] == [("s", 2), ("s", 3)]
        assert len(store.read("s", 1)["a"]) == len(array)

    def test_unknown_series(self, store):
        with pytest.raises(NoSuchVersion):
            store.verify("x")
        assert store.verify().versions == 0


class TestPrune:
    def test_keeps_the_newest_and_every_nth(self, store, array):
        kept = commits(store, array, 10)
        pruned = store.prune(keep_last=2, keep_every=4)
        assert pruned.versions == {"s": (1, 2, 3, 5, 6, 7)}
        assert [version.number for version in store.versions("s")] == [4, 8, 9, 10]
        for number in (4, 8, 9, 10):
            assert np.array_equal(store.read("s", number)["a"], kept[number])
        assert store.verify()

    def test_gives_space_back(self, path):
        array = pagescan.zeros(512 * PAGE, dtype=np.uint8)
        chance = np.random.default_rng(1)
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            for _ in range(4):
                array[:] = chance.integers(0, 256, array.nbytes, dtype=np.uint8)
                series.commit()
            pruned = store.prune(keep_last=1)
            assert pruned.packs == 3
        assert path.stat().st_size < 1.2 * array.nbytes

    def test_packs_left_by_a_failed_commit_go_when_they_are_old(self, store, array):
        commits(store, array, 2)
        with store.backend.batch():
            store.backend.put_pack("0" * 32, [b"left behind"])
        assert store.verify().orphans == 1
        assert store.prune(keep_last=9).packs == 0
        assert store.prune(keep_last=9, grace=0).packs == 1
        assert store.verify().orphans == 0

    def test_one_series_leaves_the_others(self, store, array):
        commits(store, array, 3)
        with store.series("other", a=array) as series:
            series.commit()
            series.commit()
        assert store.prune("other", keep_last=1).versions == {"other": (1,)}
        assert len(store.versions("s")) == 3

    @pytest.mark.parametrize("keep", [{}, {"keep_last": 0}, {"keep_every": 0}])
    def test_nonsense_is_refused(self, store, array, keep):
        commits(store, array, 1)
        with pytest.raises(InvalidArgument):
            store.prune(**keep)


class TestCopy:
    def test_brings_what_is_missing(self, store, array, tmp_path):
        kept = commits(store, array, 3)
        with pagescan.open_store(tmp_path / "other.pagescan") as other:
            assert (store.copy(other).versions, store.copy(other).versions) == (3, 0)
            kept[4] = commits(store, array, 1)[4]
            copied = store.copy(other)
            assert (copied.versions, copied.packs) == (1, 1)
            for number, wanted in kept.items():
                assert np.array_equal(other.read("s", number)["a"], wanted)
            assert other.verify()

    def test_goes_on_from_there(self, store, array, tmp_path):
        commits(store, array, 2)
        store.copy(tmp_path / "other.pagescan")
        with pagescan.open_store(tmp_path / "other.pagescan") as other, other.series("s", a=array) as series:
            array[0] ^= 1
            version = series.commit()
            assert (version.number, version.parent, version.written_pages) == (3, 2, 1)

    def test_another_history_is_a_conflict(self, store, array, tmp_path):
        commits(store, array, 2)
        with pagescan.open_store(tmp_path / "other.pagescan") as other:
            commits(other, array, 2)
            with pytest.raises(VersionConflict, match="different version 1"):
                store.copy(other)

    def test_to_itself_is_refused(self, store):
        with pytest.raises(InvalidArgument):
            store.copy(store)


class TestBudget:
    def test_chain_of_small_commits_stays_short_and_is_not_rewritten(self, path):
        array = pagescan.zeros(256 * PAGE, dtype=np.uint8)
        array[:] = 1
        with pagescan.open_store(path) as store, store.series("s", a=array, budget=Budget(packs=8)) as series:
            pages = []
            for number in range(40):
                array[number * PAGE] ^= 2
                version = series.commit()
                pages.append(version.written_pages)
                assert version.packs <= 8
        assert sum(pages[1:]) < 3 * 40
        assert max(pages[1:]) < 40

    def test_page_written_again_and_again_needs_no_longer_chain(self, path):
        array = pagescan.zeros(256 * PAGE, dtype=np.uint8)
        array[:] = 1
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            for number in range(10):
                array[0] = number
                assert series.commit().packs <= 2

    def test_new_base_is_written_when_too_much_is_overhead(self, path):
        array = pagescan.zeros(64 * PAGE, dtype=np.uint8)
        array[:] = 1
        with pagescan.open_store(path) as store:
            with store.series("s", a=array, budget=Budget(overhead=0.5, spare=0)) as series:
                bases = []
                for number in range(12):
                    array[number * 5 * PAGE :][: 10 * PAGE] = 100 + number
                    bases.append(series.commit().base)
            assert 1 < sum(bases) < 6
            assert np.array_equal(store.read("s")["a"], array)

    def test_merges_half_and_then_what_is_no_larger(self):
        budget = Budget(packs=4, overhead=10)
        assert to_merge(budget, [100, 1, 1], 100, 1) == 0
        assert to_merge(budget, [100, 1, 1, 1], 100, 1) == 3
        assert to_merge(budget, [100, 50, 1, 1], 100, 1) == 2
        assert to_merge(Budget(overhead=0.1, spare=0), [100, 5, 5], 100, 5) == 3
