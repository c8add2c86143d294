"""The store in one SQLite file: what is opened, by whom, and what is left beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading

import numpy as np
import pytest

import pagescan
from pagescan import AccessDenied, DataCorrupt, InvalidArgument, PagescanError
from pagescan.snapshots.base import FORMAT
from pagescan.snapshots.local import APPLICATION_ID, LocalBackend

from .killing import small_disk

PAGE = os.sysconf("SC_PAGE_SIZE")


def keep(path, array, count=2):
    with pagescan.open_store(path) as store, store.series("s", a=array) as series:
        for number in range(count):
            array[number] += 1
            series.commit()


@pytest.mark.usefixtures("tracking")
class TestFile:
    def test_closed_store_is_one_file_with_its_marks(self, path):
        keep(path, pagescan.zeros(1000))
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        connection = sqlite3.connect(path)
        marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        assert marks == [APPLICATION_ID, FORMAT]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()

    def test_commit_is_on_the_disk_when_it_returns(self, path):
        with pagescan.open_store(path) as store:
            assert isinstance(store.backend, LocalBackend)
            assert store.backend._sql.execute("PRAGMA synchronous").fetchone() == (2,)

    def test_bytes_written_are_little_more_than_the_pages(self, path):
        array = pagescan.zeros(4096 * PAGE, dtype=np.uint8)
        chance = np.random.default_rng(2)
        array[:] = chance.integers(0, 256, array.nbytes, dtype=np.uint8)
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            assert series.commit().written_bytes < 1.01 * array.nbytes
            some = np.sort(chance.choice(4096, 1600, replace=False))
            array.reshape(-1, PAGE)[some] = chance.integers(0, 256, (1600, PAGE), dtype=np.uint8)
            log = path.with_name(path.name + "-wal")
            assert isinstance(store.backend, LocalBackend)
            store.backend._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            assert log.stat().st_size == 0
            version = series.commit()
            assert version.written_pages == 1600
            assert version.written_bytes < 1.01 * 1600 * PAGE
            assert log.stat().st_size < 1.1 * 1600 * PAGE

    def test_reader_and_writer_at_once(self, path):
        array = pagescan.zeros(1000)
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            series.commit()
            with pagescan.open_store(path, create=False) as reader:
                array[0] = 7
                series.commit()
                assert reader.read("s")["a"][0] == 7

    def test_threads_share_a_store(self, path):
        failed = []
        with pagescan.open_store(path) as store:

            def work(name):
                try:
                    array = pagescan.zeros(100 * PAGE, dtype=np.uint8)
                    with store.series(name, a=array) as series:
                        for number in range(10):
                            array[number * PAGE] = number + 1
                            series.commit()
                    assert np.array_equal(store.read(name)["a"], array)
                except (AssertionError, PagescanError) as error:
                    failed.append(error)

            threads = [threading.Thread(target=work, args=(f"series {number}",)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failed == []
            assert store.verify()

    def test_read_only_file_system_can_be_read(self):
        try:
            disk = small_disk(4 << 20)
            folder = disk.__enter__()
        except OSError as error:
            pytest.skip(str(error))
        try:
            keep(folder / "state.pagescan", pagescan.zeros(1000))
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True, timeout=30)
            with pagescan.open_store(folder / "state.pagescan") as store:
                assert store.read("s", 2)["a"][:2].tolist() == [1, 1]
                assert store.verify()
                with store.series("s", a=pagescan.zeros(1000)) as series, pytest.raises(AccessDenied):
                    series.commit()
            with pytest.raises(AccessDenied):
                pagescan.open_store(folder / "new.pagescan")
        finally:
            disk.__exit__(None, None, None)


class TestRefused:
    def test_missing(self, path):
        with pytest.raises(InvalidArgument, match="no store"):
            pagescan.open_store(path, create=False)
        with pytest.raises(InvalidArgument, match="no store"):
            pagescan.open_store(path / "folder" / "x")
        assert list(path.parent.iterdir()) == []

    def test_folder(self, path):
        with pytest.raises(InvalidArgument, match="no regular file"):
            pagescan.open_store(path.parent)

    def test_something_else(self, path):
        path.write_bytes(b"something else" * 1000)
        with pytest.raises(DataCorrupt):
            pagescan.open_store(path)
        assert path.read_bytes() == b"something else" * 1000

    def test_another_database(self, path):
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE x (y)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(DataCorrupt, match="no store of pagescan"):
            pagescan.open_store(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize(("number", "hint"), [(FORMAT + 1, "pip install -U"), (1, "that wrote it")])
    def test_another_format(self, path, number, hint):
        pagescan.open_store(path).close()
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.close()
        with pytest.raises(InvalidArgument, match=f"has format {number}") as caught:
            pagescan.open_store(path)
        assert hint in (caught.value.hint or "")

    def test_damaged_words_of_the_database_itself(self, path, tracking):
        keep(path, pagescan.zeros(1000))
        data = path.read_bytes()
        words = b"CREATE TABLE pack (id INTEGER PRIMARY KEY, name TEXT"
        at = data.index(words)
        for byte in range(at, at + len(words)):
            path.write_bytes(data[:byte] + bytes([data[byte] ^ 0x80]) + data[byte + 1 :])
            with contextlib.suppress(PagescanError), pagescan.open_store(path, create=False) as store:
                store.verify()

    def test_cut_off(self, path, tracking):
        keep(path, pagescan.zeros(100_000))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(DataCorrupt, match="damaged"):
            pagescan.open_store(path)

    def test_options_without_a_url(self, path):
        with pytest.raises(InvalidArgument, match="region"):
            pagescan.open_store(path, region="x")

    @pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
    def test_names(self, path, name):
        with pagescan.open_store(path) as store, pytest.raises(InvalidArgument, match="name of a series"):
            store.series(name, a=np.zeros(1))


def test_range_is_read_whatever_the_parts(path):
    backend = LocalBackend(path)
    with backend.batch():
        assert backend.put_pack("p", [b"abc", b"", b"defg", b"h"]) == 8
    for start in range(9):
        for length in range(9):
            assert backend.read_pack("p", start, length) == b"abcdefgh"[start : start + length]
    with pytest.raises(KeyError):
        backend.read_pack("q", 0, 1)
    backend.close()
    backend.close()
