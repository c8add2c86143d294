"""Object storage: keys, the conditional commit, what is deleted when, and what a network does."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import stat
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagescan
from pagescan import (
    AccessDenied,
    Closed,
    DataCorrupt,
    InvalidArgument,
    MissingExtra,
    NoSuchVersion,
    PagescanError,
    StoreUnavailable,
    VersionConflict,
)
from pagescan.snapshots.base import GRACE_NS
from pagescan.snapshots.budget import Budget
from pagescan.snapshots.objects import ObjectBackend, _decoded, _encoded

from .s3_server import BUCKET, S3Server, proxy

obstore = pytest.importorskip("obstore", reason="needs obstore: pip install 'pagescan[s3]'")

PAGE = os.sysconf("SC_PAGE_SIZE")
ONCE: dict[str, Any] = {"retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=5)}}

pytestmark = pytest.mark.usefixtures("tracking")


@pytest.fixture(params=["file", "memory", "s3"])
def url(request, tmp_path):
    """Where a store may be made, for each kind of object storage."""
    if request.param == "s3":
        return request.getfixturevalue("s3_url")
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://{secrets.token_hex(8)}"


@pytest.fixture
def store(url):
    with pagescan.open_store(url) as store:
        yield store


@pytest.fixture
def array():
    array = pagescan.zeros(16 * PAGE, dtype=np.uint8)
    array[:] = np.random.default_rng(7).integers(1, 255, array.nbytes, dtype=np.uint8)
    return array


#: For tests that change the age of what is there.
in_a_folder = pytest.mark.parametrize("url", ["file"], indirect=True)


@pytest.fixture
def aged(url, store):
    """A function after which all that is there is older by so many nanoseconds."""

    def age(nanoseconds: int) -> None:
        for file in Path(url.removeprefix("file://")).rglob("*"):
            written = file.stat().st_mtime_ns - nanoseconds
            os.utime(file, ns=(written, written))

    return age


def place_of(store) -> Any:
    return store.backend._place


def raw(store) -> Any:
    """obstore's own handle."""
    return place_of(store)._store


def keys(store) -> list[str]:
    return sorted(meta["path"] for metas in obstore.list(raw(store)) for meta in metas)


class TestKeys:
    def test_are_those_that_are_documented(self, store, array):
        with store.series("epoch 1.5/ä", a=array) as series:
            series.commit()
        (pack,) = store.backend.packs()
        assert keys(store) == ["format/2", f"packs/{pack}", "series/epoch=201=2E5=2F=C3=A4/0000000000000001"]
        assert store.names() == ["epoch 1.5/ä"]

    @pytest.mark.parametrize("name", ["a", "a b", "..", "a/b", "=41", "ä€𝄞", "A_b-9", "%2E"])
    def test_names_come_back(self, name):
        assert _decoded(_encoded(name)) == name
        assert set(_encoded(name)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=")

    def test_name_that_is_too_long_for_a_key_is_refused(self, store, array):
        with pytest.raises(InvalidArgument, match="takes 270 bytes"):
            store.series("ä" * 45, a=array)

    def test_what_others_put_there_is_ignored(self, store, array):
        with store.series("s", a=array) as series:
            series.commit()
        for key in (
            "series/README",
            "series/=zz/0000000000000001",
            "series/s/index.html",
            "series/s/x/0000000000000007",
        ):
            obstore.put(raw(store), f"series/{key}", b"x")
        assert store.names() == ["s"]
        assert [version.number for version in store.versions("s")] == [1]

    def test_newer_format_is_refused(self, url, store):
        obstore.put(raw(store), "format/3", b"")
        pagescan.open_store(url).close()  # both: a reader of format 2 reads what is of format 2
        obstore.delete(raw(store), "format/2")
        with pytest.raises(InvalidArgument, match="format 3"):
            pagescan.open_store(url)

    def test_what_is_not_there_is_not_made_unasked(self, url):
        with pytest.raises(InvalidArgument, match="there is no store at"):
            pagescan.open_store(url, create=False)


class TestCommit:
    def test_two_writers_at_once_lose_no_version(self, url, array):
        """Both see version 0 as the newest and write their packs; exactly one makes version 1."""
        both = threading.Barrier(2)
        outcomes: list[tuple[int, Any]] = []

        def write(value: int) -> None:
            mine = pagescan.zeros(4 * PAGE, dtype=np.uint8)
            mine[:] = value
            with pagescan.open_store(url) as store, store.series("s", a=mine) as series:
                backend: Any = store.backend
                create = backend.create_manifest

                def together(*arguments):
                    both.wait(timeout=30)
                    create(*arguments)

                backend.create_manifest = together
                try:
                    outcomes.append((value, series.commit()))
                except VersionConflict as error:
                    outcomes.append((value, error))
                    backend.create_manifest = create
                    series.refresh()
                    outcomes.append((value, series.commit()))

        threads = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        conflicts = [value for value, outcome in outcomes if isinstance(outcome, VersionConflict)]
        versions = {outcome.number: value for value, outcome in outcomes if not isinstance(outcome, VersionConflict)}
        assert len(conflicts) == 1
        assert versions == {1: 3 - conflicts[0], 2: conflicts[0]}
        with pagescan.open_store(url) as store:
            assert {n: store.read("s", n)["a"][0] for n in (1, 2)} == versions
            assert not store.verify().damage

    def test_answer_that_was_lost_is_no_conflict(self, store, array, monkeypatch):
        """A client that sends a request again, as the first answer was lost, is told that the object exists."""
        place = place_of(store)
        create = place.create
        monkeypatch.setattr(place, "create", lambda key, data: create(key, data) and create(key, data))
        with store.series("s", a=array) as series:
            assert series.commit().number == 1

    def test_number_of_a_deleted_version_is_not_used_again(self, url, array):
        """A writer that was held up just before its commit, for as long as it took others to commit and prune."""
        with pagescan.open_store(url) as store, pagescan.open_store(url) as other:
            series = store.series("s", a=array)
            series.commit()
            array[0] ^= 1
            backend: Any = store.backend
            create = backend.create_manifest

            def late(*arguments):
                with other.series("s", a=array.copy()) as faster:
                    faster.commit()
                    faster.commit()
                other.prune(keep_last=1)
                create(*arguments)

            backend.create_manifest = late
            with pytest.raises(VersionConflict, match="version 2"):
                series.commit()
            assert [version.number for version in store.versions("s")] == [3]
            series.close()

    def test_large_pack_is_put_in_parts(self, store):
        array = pagescan.empty(24 << 20, dtype=np.uint8)
        array[:] = np.random.default_rng(1).integers(0, 255, array.nbytes, dtype=np.uint8)
        with store.series("s", a=array) as series:
            version = series.commit()
        assert version.written_bytes > 24 << 20
        assert np.array_equal(store.read("s")["a"], array)
        assert not store.verify().damage


class TestRequests:
    def test_commit_takes_six_and_one_for_each_pack(self, s3_server, s3_url, array):
        requests = Requests()
        with (
            proxy(s3_server, requests) as front,
            pagescan.open_store(s3_url, endpoint=front) as store,
            store.series("s", a=array) as series,
        ):
            series.commit()
            for packs in (2, 3):
                array[packs * PAGE] ^= 1
                requests.begin(None)
                assert series.commit().packs == packs
                assert len(requests.seen) == 6 + packs

    def test_reading_takes_few(self, s3_server, s3_url):
        """Of a pack of 20 frames every second is needed: that is one request, and not ten."""
        array = pagescan.empty(20 * 64 * PAGE, dtype=np.uint8)
        array[:] = np.random.default_rng(1).integers(1, 255, array.nbytes, dtype=np.uint8)
        requests = Requests()
        with (
            proxy(s3_server, requests) as front,
            pagescan.open_store(s3_url, endpoint=front) as store,
            store.series("s", a=array) as series,
        ):
            series.commit()
            array.reshape(10, 2, 64 * PAGE)[:, 0] = 0
            requests.begin(None)
            assert series.restore(1) == 10 * 64 * PAGE
            # The index, the pages to check them, and the pages.
            assert sum("/packs/" in line for line in requests.seen) == 3
            requests.begin(None)
            assert not store.verify().damage
            assert sum("/packs/" in line for line in requests.seen) <= 4


KILLED = """
import hashlib, sys
import numpy as np, pagescan
array = pagescan.zeros(64 * 4096, dtype=np.uint8)
with pagescan.open_store(sys.argv[1]) as store, store.series("s", a=array) as series:
    if store.names():
        series.restore(store.versions("s")[-1])
    random = np.random.default_rng()
    while True:
        array.reshape(-1, 4096)[random.integers(0, 64, 4)] = random.integers(0, 255, (4, 4096))
        number = series.commit().number
        print(number, hashlib.sha256(array).hexdigest(), flush=True)
"""


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path):
    url = f"file://{tmp_path}/store"
    acknowledged: dict[int, str] = {}
    for lines in (1, 2, 3):
        child = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout is not None
            read = [child.stdout.readline() for _ in range(lines)]
            child.kill()  # in the midst of the next
            read += [line for line in child.stdout if line.endswith("\n")]
        for line in read:
            number, digest = line.split()
            acknowledged[int(number)] = digest
        with pagescan.open_store(url) as store:
            assert not store.verify().damage
            for version, digest in acknowledged.items():
                assert hashlib.sha256(store.read("s", version)["a"].tobytes()).hexdigest() == digest
    assert len(acknowledged) >= 6


class TestPrune:
    def versions(self, store, array) -> list[int]:
        return [version.number for version in store.versions("s")]

    def committed(self, store, array, count: int) -> None:
        with store.series("s", a=array) as series:
            for value in range(count):
                array[:] = np.random.default_rng(value).integers(1, 255, array.nbytes, dtype=np.uint8)
                series.commit()

    @in_a_folder
    def test_forgets_versions_at_once_and_their_packs_after_the_grace(self, store, array, aged):
        self.committed(store, array, 3)
        pruned = store.prune(keep_last=1)
        assert (pruned.versions, pruned.packs) == ({"s": (1, 2)}, 0)
        assert self.versions(store, array) == [3]
        with pytest.raises(NoSuchVersion):
            store.read("s", 1)
        aged(GRACE_NS - 60 * 10**9)
        assert store.prune(keep_last=1).packs == 0
        aged(120 * 10**9)
        assert store.prune(keep_last=1).packs == 2
        assert [key.split("/")[0] for key in keys(store)] == ["clock", "format", "packs", "series"]
        assert np.array_equal(store.read("s")["a"], array)

    def test_without_grace_all_goes_at_once(self, store, array):
        self.committed(store, array, 3)
        assert store.prune(keep_last=1, grace=0).packs == 2
        assert [key.split("/")[0] for key in keys(store)] == ["clock", "format", "packs", "series"]
        assert store.verify().orphans == 0

    @in_a_folder
    def test_grace_begins_when_a_version_is_forgotten(self, store, array, aged):
        self.committed(store, array, 2)
        aged(3 * GRACE_NS)
        assert store.prune(keep_last=1).packs == 0

    def test_reader_that_has_begun_reads_to_its_end(self, url, array):
        with pagescan.open_store(url) as store, pagescan.open_store(url) as other:
            self.committed(store, array, 1)
            expected = array.copy()
            contents = other.contents("s", 1)
            self.committed(store, array, 1)
            store.prune(keep_last=1)
            entry = contents.manifest.buffers[0]
            assert np.array_equal(other.array(contents, entry), expected)

    @in_a_folder
    def test_what_a_failed_commit_left_goes_after_the_grace(self, store, array, monkeypatch, aged):
        self.committed(store, array, 1)
        with store.series("s", a=array) as series:
            array[0] ^= 1
            monkeypatch.setattr(store.backend, "create_manifest", self.fail)
            with pytest.raises(OSError, match="cut"):
                series.commit()
        monkeypatch.undo()
        assert len(store.backend.packs()) == 2
        assert store.prune(keep_last=1).packs == 0
        aged(GRACE_NS + 10**9)
        assert store.prune(keep_last=1).packs == 1

    def fail(self, *_):
        raise OSError("cut")

    def test_prune_that_was_killed_between_its_two_puts_deletes_nothing_alive(self, store, array, monkeypatch):
        self.committed(store, array, 2)
        place = place_of(store)
        put = place.put

        def cut(key, data):
            if not data:
                raise OSError("cut")
            put(key, data)

        monkeypatch.setattr(place, "put", cut)
        with pytest.raises(OSError, match="cut"):
            store.prune(keep_last=1)
        monkeypatch.setattr(place, "put", put)
        store.backend.reclaim(store.backend.now_ns() + 10**10)
        assert self.versions(store, array) == [1, 2]
        assert not store.verify().damage

    def test_writer_whose_base_was_pruned_is_told(self, url, array):
        with pagescan.open_store(url) as store, pagescan.open_store(url) as other:
            series = store.series("s", a=array)
            series.commit()
            array[:] = 5
            series.commit()
            series.restore(1)
            other.prune(keep_last=1)
            with pytest.raises(VersionConflict, match="pruned"):
                series.commit()
            series.refresh()
            assert (series.commit().number, np.array_equal(store.read("s")["a"], array)) == (3, True)
            series.close()


class TestDamage:
    @pytest.fixture
    def three(self, store, array):
        """Three versions of a base each, as the arrays that they hold."""
        held = []
        with store.series("s", a=array, b=pagescan.zeros(2 * PAGE, dtype=np.uint8)) as series:
            for value in range(3):
                array[:] = np.random.default_rng(value).integers(1, 255, array.nbytes, dtype=np.uint8)
                series.commit()
                held.append(array.copy())
        return held

    def flip(self, store, key: str, byte: int) -> None:
        data = bytearray(bytes(obstore.get(raw(store), key).bytes()))
        data[byte] ^= 4
        obstore.put(raw(store), key, bytes(data))

    def others_read(self, url, three) -> None:
        with pagescan.open_store(url) as again:
            for number in (1, 3):
                assert np.array_equal(again.read("s", number)["a"], three[number - 1])

    def test_flipped_bit_in_a_pack_names_version_and_buffer(self, url, store, three):
        ref = store.contents("s", 2).manifest.packs[-1]
        for byte in (2000, ref.size // 2, ref.size - ref.index - 1):
            self.flip(store, f"packs/{ref.name}", byte)
            with pagescan.open_store(url) as again:
                (damage,) = again.verify().damage
                assert (damage.series, damage.version, damage.buffer) == ("s", 2, "a")
                with pytest.raises(DataCorrupt) as caught:
                    again.read("s", 2)
                assert (caught.value.version, caught.value.buffer) == (2, "a")
            self.others_read(url, three)
            self.flip(store, f"packs/{ref.name}", byte)
        with pagescan.open_store(url) as again:
            assert not again.verify().damage

    def test_flipped_bit_in_an_index_or_a_manifest_names_the_version(self, url, store, three):
        ref = store.contents("s", 2).manifest.packs[-1]
        for key, byte in (
            (f"packs/{ref.name}", ref.size - 20),
            ("series/s/0000000000000002", 10),
            ("series/s/0000000000000002", 300),
        ):
            self.flip(store, key, byte)
            with pagescan.open_store(url) as again:
                assert {(damage.series, damage.version) for damage in again.verify().damage} == {("s", 2)}
                with pytest.raises(DataCorrupt) as caught:
                    again.read("s", 2)
                assert caught.value.version == 2
            self.others_read(url, three)
            self.flip(store, key, byte)

    def test_missing_or_cut_pack_names_the_version(self, url, store, three):
        ref = store.contents("s", 2).manifest.packs[-1]
        key = f"packs/{ref.name}"
        data = bytes(obstore.get(raw(store), key).bytes())
        for what in ("index", "missing"):
            if what == "index":
                obstore.put(raw(store), key, data[: len(data) // 2])
            else:
                obstore.delete(raw(store), key)
            with pagescan.open_store(url) as again:
                assert {(damage.series, damage.version) for damage in again.verify().damage} == {("s", 2)}
                with pytest.raises(DataCorrupt, match=what) as caught:
                    again.read("s", 2)
                assert caught.value.version == 2
            self.others_read(url, three)

    def test_missing_pack_stops_a_commit_that_needs_it(self, url, array):
        with pagescan.open_store(url) as store, store.series("s", a=array) as series:
            series.commit()
            (pack,) = store.backend.packs()
            obstore.delete(raw(store), f"packs/{pack}")
            array[0] ^= 1
            with pytest.raises(VersionConflict, match="deleted meanwhile"):
                series.commit()


class TestCopy:
    @pytest.mark.parametrize("to", ["sqlite", "file", "memory", "s3"])
    def test_between_every_two_kinds(self, store, array, to, tmp_path, request):
        target = {
            "sqlite": tmp_path / "copy.pagescan",
            "file": f"file://{tmp_path}/copy",
            "memory": f"memory://{secrets.token_hex(8)}",
            "s3": "",
        }[to] or request.getfixturevalue("s3_url") + "/copy"
        with store.series("s", a=array) as series:
            for page in (0, 3):
                array[page * PAGE] ^= 1
                series.commit()
        assert store.copy(target).versions == 2
        with pagescan.open_store(target) as copied:
            assert not copied.verify().damage
            assert copied.versions("s") == store.versions("s")
            assert np.array_equal(copied.read("s")["a"], array)
            back = copied.copy(f"memory://{secrets.token_hex(8)}")
            assert (back.versions, back.packs) == (2, 2)

    def test_brings_back_what_was_pruned_there(self, store, array):
        with store.series("s", a=array) as series:
            for page in range(3):
                array[page * PAGE] ^= 1
                series.commit()
        with pagescan.open_store("memory://") as copied:
            store.copy(copied)
            copied.prune(keep_last=1)
            assert store.copy(copied).versions == 2
            assert [version.number for version in copied.versions("s")] == [1, 2, 3]
            copied.backend.reclaim(copied.backend.now_ns())
            assert [version.number for version in copied.versions("s")] == [1, 2, 3]
            assert not copied.verify().damage


class TestOpening:
    def test_memory_without_a_name_is_a_new_one_each_time(self, array):
        with pagescan.open_store("memory://") as store, pagescan.open_store("memory://") as other:
            with store.series("s", a=array) as series:
                series.commit()
            assert (store.names(), other.names()) == (["s"], [])

    def test_memory_with_a_name_outlives_its_handle(self, array):
        url = f"memory://{secrets.token_hex(8)}"
        with pagescan.open_store(url) as store, store.series("s", a=array) as series:
            series.commit()
        with pagescan.open_store(url, create=False) as store:
            assert np.array_equal(store.read("s")["a"], array)

    def test_folder_is_its_owners_alone(self, tmp_path):
        (tmp_path / "open").mkdir(mode=0o755)
        for folder in ("open", "new"):
            with (
                pagescan.open_store(f"file://{tmp_path}/{folder}") as store,
                store.series("s", a=bytearray(9)) as series,
            ):
                series.commit()
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "open").iterdir()} == {0o700}

    @pytest.mark.parametrize("url", ["ftp://x/y", "https://x/y", "nonsense://x", "://"])
    def test_unknown_scheme_is_refused(self, url):
        with pytest.raises(InvalidArgument, match="no store is known") as caught:
            pagescan.open_store(url)
        assert "s3://" in (caught.value.hint or "")

    @pytest.mark.parametrize("url", ["file://host/x", "file://"])
    def test_folder_elsewhere_is_refused(self, url):
        with pytest.raises(InvalidArgument, match="no folder of this machine"):
            pagescan.open_store(url)

    @pytest.mark.parametrize(
        ("url", "options"),
        [("memory://", {"region": "x"}), ("s3://b/x", {"nonsense": "x"}), ("s3://b/x", {"region": 3})],
    )
    def test_unknown_options_are_refused(self, url, options):
        with pytest.raises(InvalidArgument, match="option"):
            pagescan.open_store(url, **options)

    def test_options_of_a_file_are_refused(self, tmp_path):
        with pytest.raises(InvalidArgument, match="takes no options"):
            pagescan.open_store(tmp_path / "x", region="x")

    def test_options_take_the_place_of_the_environment(self, s3_server):
        with pagescan.open_store(
            f"s3://{BUCKET}/{secrets.token_hex(8)}",
            endpoint=s3_server.endpoint,
            access_key_id="test",
            secret_access_key="test",
            region="us-east-1",
        ) as store:
            assert store.names() == []

    def test_bucket_that_is_not_there(self, s3_url):
        with pytest.raises(InvalidArgument, match="no such bucket"):
            pagescan.open_store("s3://another-bucket/x")

    def test_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(PagescanError):
            pagescan.open_store(f"file://{tmp_path}/file/x")

    def test_without_obstore_the_pip_line_is_named(self):
        code = (
            "import sys; sys.modules['obstore'] = None\n"
            "import pagescan\n"
            "try: pagescan.open_store('s3://b/x')\n"
            "except pagescan.MissingExtra as error: print(error.hint)"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out == "pip install 'pagescan[s3]'\n"
        assert issubclass(MissingExtra, ImportError)

    def test_forked_child_is_told_instead_of_waiting_for_ever(self, store):
        answer, end = os.pipe()
        child = os.fork()
        if child == 0:
            for what in (store.names, lambda: pagescan.open_store("memory://")):
                try:
                    what()
                except Closed:
                    os.write(end, b"c")
            os._exit(0)
        os.close(end)
        os.waitpid(child, 0)
        assert os.read(answer, 10) == b"cc"
        os.close(answer)


class Requests:
    """Counts requests, and loses the one of that number, or its answer. ``seen``: method and path of each."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.lose: tuple[int, str] | None = None

    def __call__(self, method: str, path: str) -> str | bool:
        self.seen.append(f"{method} {path}")
        number, what = self.lose or (-1, "")
        return what if number == len(self.seen) - 1 else False

    def begin(self, lose: tuple[int, str] | None) -> None:
        self.seen, self.lose = [], lose


class TestNetwork:
    @pytest.mark.parametrize("what", ["request", "answer"])
    def test_loss_of_any_request_of_a_commit_loses_nothing(self, s3_server, s3_url, array, what):
        """Each request of a commit in turn; then the next commit holds what was due."""
        requests = Requests()
        with (
            proxy(s3_server, requests) as front,
            pagescan.open_store(s3_url) as direct,
            pagescan.open_store(s3_url, endpoint=front, **ONCE) as store,
            # Few packs, as each is asked for.
            store.series("s", a=array, budget=Budget(packs=2)) as series,
        ):
            series.commit()
            number = lost = 0
            while not lost:
                array[(number % 16) * PAGE] ^= 1
                before = [version.number for version in direct.versions("s")]
                requests.begin((number, what))
                with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                    series.commit()
                assert "nothing is lost" in (caught.value.hint or "")
                # The manifest is put last; once it is there, the commit has gone through, and nobody was told.
                lost = requests.seen[-1].startswith("PUT") and "/series/" in requests.seen[-1]
                made = lost and what == "answer"
                requests.begin(None)
                assert [version.number for version in direct.versions("s")] == [*before, *[before[-1] + 1] * made]
                version = series.commit()
                assert version.number == before[-1] + 1 + made
                assert np.array_equal(direct.read("s")["a"], array)
                number += 1
            assert number > 5
            assert not direct.verify().damage

    def test_server_that_dies_during_a_commit(self, array, monkeypatch):
        server = S3Server()
        try:
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
            with pagescan.open_store(f"s3://{BUCKET}/x", **ONCE) as store, store.series("s", a=array) as series:
                series.commit()
                array[PAGE] ^= 1
                place = place_of(store)
                upload = place.upload

                def dies(*arguments):
                    server.kill()
                    return upload(*arguments)

                monkeypatch.setattr(place, "upload", dies)
                with pytest.raises(StoreUnavailable, match="cannot be reached"):
                    series.commit()
                assert len(series.tracker.peek()) == 1
        finally:
            server.kill()

    def test_ctrl_c_ends_waiting_for_a_server_that_does_not_answer(self, tmp_path):
        code = (
            "import socket, sys, pagescan\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "url = f'http://127.0.0.1:{server.getsockname()[1]}'\n"
            "print('up', flush=True)\n"
            "import threading; threading.Thread(target=lambda: (server.accept(), print('asked', flush=True))).start()\n"
            "try: pagescan.open_store('s3://b/x', endpoint=url, access_key_id='x', secret_access_key='x')\n"
            "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            assert child.stdout.readline() == "asked\n"
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"
            assert child.wait(timeout=20) == 0

    def test_refused_access_names_what_to_set(self, s3_server, s3_url, array, monkeypatch):
        place = pagescan.open_store(s3_url).backend
        assert isinstance(place, ObjectBackend)

        def refused(*_, **__):
            raise obstore.exceptions.PermissionDeniedError("403 Forbidden")

        monkeypatch.setattr(place._place._obstore, "put", refused)
        with pytest.raises(AccessDenied, match="refused") as caught:
            place.put_pack("a" * 32, [b"x"])
        assert "AWS_ACCESS_KEY_ID" in (caught.value.hint or "")
        place.close()

    def test_error_while_a_pack_is_made_is_raised_as_it_is(self, store):
        def parts():
            yield bytes(9 << 20)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.backend.put_pack("a" * 32, parts())
        assert store.backend.packs() == {}


def test_full_file_system_says_so(tmp_path, array):
    """A file system of 1 MiB that is mounted for this test."""
    where = Path(tmp_path / "small")
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(where)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs to mount a tmpfs: root")
    try:
        with pagescan.open_store(f"file://{where}/store") as store, store.series("s", a=array) as series:
            series.commit()
            large = pagescan.empty(4 << 20, dtype=np.uint8)
            large[:] = np.random.default_rng(1).integers(0, 255, large.nbytes, dtype=np.uint8)
            with store.series("t", a=large) as other, pytest.raises(PagescanError, match="no space") as caught:
                other.commit()
            assert caught.value.errno == 28
            assert not store.verify().damage
            array[0] ^= 1
            assert series.commit().written_pages == 1
    finally:
        subprocess.run(["umount", str(where)], check=True)
