"""``pagescan snapshot``: versions of a live process, and what is done with stores."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pagescan
from pagescan.cli.snapshot import ACTIONS
from tests.conformance.conftest import tracking as tracking

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "state.pagescan"


@pytest.fixture
def arrays(store, tracking) -> dict[str, np.ndarray]:
    """A store with two versions of two arrays, of which the second changed one page of one."""
    weights, step = pagescan.zeros((4, 1024), np.float32), np.arange(5)
    weights[:] = 1
    with pagescan.open_store(store) as opened, opened.series("training", weights=weights, step=step) as series:
        series.commit("first")
        weights[2, 7] = 5
        series.commit("second")
    return {"weights": weights, "step": step}


class TestCreate:
    def test_versions_of_a_process(self, run, target, store, tracking):
        done = run("snapshot", "create", "-p", target.pid, store, "--count", "2", "--every", "10ms", "--note", "n")
        assert (done.code, done.err) == (0, "")
        head, first, second = done.out.splitlines()
        assert head.startswith("series python")
        assert head.endswith(f"-{target.pid} of process {target.pid}, in {store}")
        assert first.startswith("version 1: ")
        assert "stood still" in second
        assert stat.S_IMODE(store.stat().st_mode) == 0o600
        with pagescan.open_store(store) as opened:
            (name,) = opened.names()
            assert name.endswith(f"-{target.pid}")
            one, two = opened.versions(name)
            assert (one.note, two.parent) == ("n", 1)
            assert two.written_pages < 20 < one.written_pages
            data = opened.read(name)[f"{target.start:#x} anonymous"]
        assert np.flatnonzero(data).tolist() == [page * target.size for page in (1, 2, 9)]

    def test_a_later_run_goes_on_and_writes_what_changed(self, run, target, store, tracking):
        run("snapshot", "create", "-p", target.pid, store, "--series", "s")
        answer = run("snapshot", "create", "-p", target.pid, store, "--series", "s", "--json").json()
        assert (answer["schema"], answer["version"]) == ("pagescan.snapshot.create", 1)
        (version,) = answer["versions"]
        assert (version["number"], version["parent"], answer["ended"]) == (2, 1, "count")
        assert version["written_pages"] < 20
        assert version["pause_ns"] > 0
        assert version["attributes"]["pid"] == target.pid

    def test_chosen_mappings_without_stopping_it(self, run, target, store, tracking):
        done = run("snapshot", "create", "-p", target.pid, store, "--mappings", "[heap]", "--no-freeze")
        assert done.code == 0
        assert "in 1 mapping;" in done.out
        assert "; ran on" in done.out

    def test_it_ends_with_the_process(self, run, store, tracking):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            command = [sys.executable, "-m", "pagescan", "snapshot", "create", "-p", str(child.pid), str(store)]
            maker = subprocess.Popen(
                [*command, "--every", "50ms", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            while not store.exists():
                assert maker.poll() is None, maker.communicate()
            child.communicate(b"\n")
        out, err = maker.communicate(timeout=30)
        # Whoever exits before the first version is an error; later it is an end like another.
        assert maker.returncode in (0, 3), err
        if maker.returncode == 0:
            assert json.loads(out)["ended"] == "exited"

    def test_no_such_process(self, run, store):
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        assert run("snapshot", "create", "-p", gone.pid, store).code == 3


class TestLooking:
    def test_list(self, run, arrays, store):
        done = run("snapshot", "list", store)
        head, first, second = done.out.splitlines()
        assert head.split() == ["SERIES", "VERSION", "TIME", "BUFFERS", "SIZE", "PAGES", "WRITTEN", "STORED", "NOTE"]
        assert first.split()[:2] == ["training", "1"]
        assert second.endswith("second")
        answer = run("snapshot", "list", store, "--json").json()
        (series,) = answer["series"]
        assert [version["number"] for version in series["versions"]] == [1, 2]

    def test_show(self, run, arrays, store):
        done = run("snapshot", "show", store, "--version", "1")
        assert "made from nothing" in done.out
        assert "note: first" in done.out
        assert "<f4 4x1024" in done.out
        answer = run("snapshot", "show", store, "--json").json()
        assert (answer["number"], [b["name"] for b in answer["buffers"]]) == (2, ["weights", "step"])

    def test_diff(self, run, arrays, store):
        done = run("snapshot", "diff", store, "1", "2")
        assert "changed" in done.out
        assert "4.0 KiB differ between versions 1 and 2" in done.out or "4 KiB differ" in done.out
        lines = run("snapshot", "diff", store, "1", "2", "--regions").out.splitlines()
        assert lines[1].split() == ["+0x2000", "+0x3000", "4K", "weights"]
        answer = run("snapshot", "diff", store, "1", "2", "--json").json()
        assert answer["buffers"] == [{"name": "weights", "what": "changed", "bytes": 4096, "ranges": [[8192, 12288]]}]

    def test_verify(self, run, arrays, store):
        done = run("snapshot", "verify", store)
        assert (done.code, "all is whole" in done.out) == (0, True)
        assert run("snapshot", "verify", store, "--json").json()["damage"] == []

    def test_prune(self, run, arrays, store):
        assert "1 version forgotten" in run("snapshot", "prune", store, "--keep-last", "1").out
        answer = run("snapshot", "prune", store, "--keep-last", "1", "--json").json()
        assert answer["packs"] == 0


class TestDamage:
    @pytest.fixture
    def damaged(self, arrays, store) -> Path:
        """A store of which the frame of ``weights`` in version 1 has a flipped bit."""
        with contextlib.closing(sqlite3.connect(store)) as database, database:
            part, data = database.execute("SELECT id, data FROM part ORDER BY id").fetchone()
            assert data.startswith(b"PgSP")
            broken = bytearray(data)
            broken[16 + 8] ^= 1  # the head of the pack has 16 bytes, then comes its first frame
            database.execute("UPDATE part SET data = ? WHERE id = ?", (bytes(broken), part))
        return store

    def test_verify_names_it_with_exit_code_6(self, run, damaged):
        done = run("snapshot", "verify", damaged)
        assert done.code == 6
        assert "version 1 of 'training', buffer" in done.err
        assert run("snapshot", "verify", damaged, "--json").json()["damage"][0]["series"] == "training"

    def test_restore_writes_what_is_whole(self, run, damaged, tmp_path):
        done = run("snapshot", "restore", damaged, "--version", "1", "-o", tmp_path / "out")
        assert done.code == 6
        assert "left out" in done.err
        files = {path.name for path in (tmp_path / "out").iterdir()}
        assert "index.json" in files
        assert len(files & {"weights.npy", "step.npy"}) == 1


class TestRestore:
    def test_arrays_become_npy_files(self, run, arrays, store, tmp_path):
        out = tmp_path / "out"
        assert run("snapshot", "restore", store, "-o", out).code == 0
        for name, array in arrays.items():
            assert np.array_equal(np.load(out / f"{name}.npy"), array)
            assert np.load(out / f"{name}.npy").dtype == array.dtype
        assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
        assert stat.S_IMODE(out.stat().st_mode) == 0o700
        index = json.loads((out / "index.json").read_text())
        assert [buffer["file"] for buffer in index["buffers"]] == ["weights.npy", "step.npy"]
        assert index["of"]["number"] == 2

    def test_raw_and_chosen(self, run, arrays, store, tmp_path):
        out = tmp_path / "out"
        answer = run(
            "snapshot", "restore", store, "--version", "1", "--raw", "--buffer", "w*", "-o", out, "--json"
        ).json()
        assert answer["files"] == {"weights": "weights.bin"}
        assert np.fromfile(out / "weights.bin", np.float32).tolist() == [1] * 4096
        assert run("snapshot", "restore", store, "--buffer", "none", "-o", out).code == 2

    def test_nothing_is_overwritten_unasked(self, run, arrays, store, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "step.npy").write_text("mine")
        done = run("snapshot", "restore", store, "-o", out)
        assert (done.code, "exists" in done.err) == (1, True)
        assert [path.name for path in out.iterdir()] == ["step.npy"]
        assert run("snapshot", "restore", store, "-o", out, "--force").code == 0
        assert run("snapshot", "restore", store, "-o", tmp_path / "no" / "such").code == 2

    def test_a_process_is_not_restored_and_it_says_so(self, run, target, store, tmp_path, tracking):
        run("snapshot", "create", "-p", target.pid, store, "--mappings", "")
        done = run("snapshot", "restore", store, "-o", tmp_path / "out")
        assert "do not make it run again" in done.err
        image = np.fromfile(tmp_path / "out" / f"{target.start:#x}_anonymous.bin", np.uint8)
        assert np.flatnonzero(image).tolist() == [page * target.size for page in (1, 2, 9)]
        index = json.loads((tmp_path / "out" / "index.json").read_text())
        assert f"{target.start:#x}" in [buffer["attributes"]["start"] for buffer in index["buffers"]]


class TestMistakes:
    def test_an_action_is_needed(self, run):
        done = run("snapshot")
        assert (done.code, "say what to do" in done.err) == (2, True)

    def test_no_store(self, run, store):
        for action in ("list", "verify", "show"):
            assert run("snapshot", action, store).code == 2
        assert not store.exists()

    def test_several_series_have_to_be_told_apart(self, run, arrays, store):
        with pagescan.open_store(store) as opened, opened.series("other", a=np.ones(5)) as series:
            series.commit()
        done = run("snapshot", "show", store)
        assert (done.code, "--series" in done.err) == (2, True)
        assert run("snapshot", "show", store, "--series", "other").code == 0
        assert run("snapshot", "list", store, "--series", "none").code == 1
        assert run("snapshot", "show", store, "--series", "other", "--version", "9").code == 1

    def test_prune_has_to_be_told_what_stays(self, run, arrays, store):
        assert run("snapshot", "prune", store).code == 2

    @pytest.mark.parametrize("action", ACTIONS)
    def test_every_action_has_help(self, run, action):
        done = run("snapshot", action, "--help")
        assert done.code == 0
        assert (ACTIONS[action].__doc__ or "").strip().splitlines()[0] in done.out
