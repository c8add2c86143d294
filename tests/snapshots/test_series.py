"""Series: commits write what changed, restores put back what differs, failures lose nothing."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest

import pagescan
from pagescan import Closed, InvalidArgument, NoSuchVersion, VersionConflict
from pagescan.snapshots.local import LocalBackend

PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.usefixtures("tracking")


@pytest.fixture
def array():
    array = pagescan.zeros(16 * PAGE, dtype=np.uint8)
    array[:] = np.random.default_rng(7).integers(1, 255, array.nbytes, dtype=np.uint8)
    return array


class TestCommit:
    def test_first_holds_everything(self, store, array):
        with store.series("s", a=array) as series:
            version = series.commit(note="one")
        assert (version.number, version.parent, version.note, version.base) == (1, None, "one", True)
        assert version.written_pages == 16
        assert np.array_equal(store.read("s", version)["a"], array)

    def test_later_ones_hold_what_was_written_since(self, store, array):
        with store.series("s", a=array) as series:
            series.commit()
            array[3 * PAGE] ^= 1
            array[9 * PAGE] ^= 1
            version = series.commit()
            assert (version.written_pages, version.parent, version.base, version.packs) == (2, 1, False, 2)
            assert series.commit().written_pages == 0
        assert np.array_equal(store.read("s", 2)["a"], array)

    def test_page_that_was_written_but_has_not_changed_is_left_out(self, store, array):
        with store.series("s", a=array) as series:
            series.commit()
            array[:] = array.copy()
            array[PAGE] ^= 1
            assert series.commit().written_pages == 1

    def test_zeros_are_not_stored(self, store):
        array = pagescan.zeros(1000 * PAGE, dtype=np.uint8)
        with store.series("s", a=array) as series:
            assert series.commit().written_pages == 0
            array[5 * PAGE] = 1
            assert series.commit().written_pages == 1
            array[5 * PAGE] = 0
            version = series.commit()
            assert version.written_pages == 1
            assert version.written_bytes < PAGE
        assert [store.read("s", n)["a"].sum() for n in (1, 2, 3)] == [0, 1, 0]

    def test_several_buffers_keep_their_dtypes_and_shapes(self, store):
        grid = pagescan.zeros((100, 50), dtype=np.float32)
        step, text = np.array(7), bytearray(b"words")
        with store.series("s", grid=grid, step=step, text=text) as series:
            grid[:], text[0:1] = 3, b"W"
            version = series.commit()
        read = store.read("s", version)
        assert (read["grid"].dtype, read["grid"].shape, read["grid"].sum()) == (np.float32, (100, 50), 15000)
        assert (read["step"].shape, int(read["step"])) == ((), 7)
        assert read["text"].tobytes() == b"Words"
        assert version.nbytes == 20000 + 8 + 5

    def test_failure_leaves_the_store_as_it_was_and_the_pages_due(self, store, array, monkeypatch):
        with store.series("s", a=array) as series:
            series.commit()
            array[2 * PAGE] ^= 1

            def full(*_):
                raise OSError("no space")

            monkeypatch.setattr(store.backend, "create_manifest", full)
            with pytest.raises(OSError, match="no space"):
                series.commit()
            monkeypatch.undo()
            assert [v.number for v in series.versions] == [1]
            # A pack that nobody names may be left where several objects cannot be put in one step.
            assert len(store.backend.packs()) == 1 or not store.backend.atomic
            array[4 * PAGE] ^= 1
            assert series.commit().written_pages == 2
        assert np.array_equal(store.read("s", 2)["a"], array)

    def test_commit_whose_answer_was_lost_is_known_again(self, path, array, monkeypatch):
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            series.commit()
            array[2 * PAGE] ^= 1
            assert isinstance(store.backend, LocalBackend)
            fold = store.backend._fold_if_long

            def lost():
                fold()
                raise OSError("the answer was lost")

            monkeypatch.setattr(store.backend, "_fold_if_long", lost)
            with pytest.raises(OSError, match="lost"):
                series.commit()
            monkeypatch.undo()
            version = series.commit()
            assert (version.number, version.parent, version.written_pages) == (3, 2, 0)
            assert np.array_equal(store.read("s", 2)["a"], array)


class TestReopened:
    def test_writes_only_what_differs(self, url, array):
        with pagescan.open_store(url) as store, store.series("s", a=array) as series:
            series.commit()
        array[7 * PAGE] ^= 1
        with pagescan.open_store(url) as store, store.series("s", a=array) as series:
            version = series.commit()
            assert (version.number, version.parent, version.written_pages) == (2, 1, 1)
            assert np.array_equal(store.read("s")["a"], array)

    def test_other_layout_is_an_error(self, store, array):
        with store.series("s", a=array) as series:
            series.commit()
        with pytest.raises(InvalidArgument, match="buffer 'a'"):
            store.series("s", a=array[: 8 * PAGE])
        with store.series("s", relayout=True, a=array[: 8 * PAGE]) as series:
            assert series.commit().written_pages == 0
        assert np.array_equal(store.read("s")["a"], array[: 8 * PAGE])

    def test_another_writer_is_a_conflict_that_refresh_mends(self, url, array):
        other = array.copy()
        with pagescan.open_store(url) as one, pagescan.open_store(url) as two:
            first, second = one.series("s", a=array), two.series("s", a=other)
            first.commit()
            with pytest.raises(VersionConflict, match="another writer") as caught:
                second.commit()
            assert "refresh()" in (caught.value.hint or "")
            second.refresh()
            other[0] ^= 1
            version = second.commit()
            assert (version.number, version.parent, version.written_pages) == (2, 1, 1)
            first.close()
            second.close()


class TestRestore:
    def test_copies_what_differs(self, store, array):
        before = array.copy()
        with store.series("s", a=array) as series:
            first = series.commit()
            array[3 * PAGE :] = 0
            second = series.commit()
            assert series.restore(first) == 13 * PAGE
            assert np.array_equal(array, before)
            assert series.restore(second) == 13 * PAGE
            assert not array[3 * PAGE :].any()
            array[0] ^= 1
            assert series.restore(second) == PAGE

    def test_next_commit_builds_on_what_was_restored(self, store, array):
        with store.series("s", a=array) as series:
            series.commit()
            array[:] = 1
            series.commit()
            series.restore(1)
            array[0] ^= 1
            version = series.commit()
            assert (version.number, version.parent, version.written_pages) == (3, 1, 1)
        assert np.array_equal(store.read("s", 3)["a"], array)


class TestStore:
    def test_unknown_names_and_numbers(self, store, array):
        with pytest.raises(NoSuchVersion, match="no series 'x'"):
            store.read("x", 1)
        with store.series("s", a=array) as series:
            series.commit()
        with pytest.raises(NoSuchVersion, match="no version 2"):
            store.read("s", 2)

    def test_diff_names_slices_of_elements(self, store):
        array = pagescan.zeros(10_000)
        with store.series("s", a=array, b=pagescan.zeros(5)) as series:
            series.commit()
            array[100] = 1
            array[9_999] = 1
            series.commit()
            elements = PAGE // 8
            assert series.diff(1, 2) == {"a": [slice(0, elements), slice(10_000 // elements * elements, 10_000)]}
            assert series.diff(2, 2) == {}

    def test_file_is_its_owners_alone(self, path, array):
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            series.commit()
            modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {0o600}

    def test_closed_store_and_series_say_so(self, url, array):
        store = pagescan.open_store(url)
        series = store.series("s", a=array)
        series.close()
        store.close()
        with pytest.raises(Closed):
            series.commit()
        with pytest.raises(Closed):
            store.names()
