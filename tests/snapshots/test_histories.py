"""Random histories of a store against plain copies: commits, failures, restores, prunes, copies, compactions."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pagescan
from pagescan import NoSuchVersion, VersionConflict
from pagescan.snapshots.budget import Budget

from .conftest import needs_obstore

PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES = 12

pytestmark = pytest.mark.usefixtures("tracking")


class Failure(Exception):
    """Injected."""


class StoreHistories(RuleBasedStateMachine):
    """Two buffers, of which one lies across page boundaries and does not end at one; every version kept as a copy."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path: Path | str = Path(self.folder.name) / "state.pagescan"
        self.copy_path = Path(self.folder.name) / "copy.pagescan"
        self.oracle: dict[int, dict[str, np.ndarray]] = {}
        self.newest = 0
        self.parent: int | None = None
        self.store: Any = None
        self.series: Any = None

    @initialize(offset=st.sampled_from([0, 8, 1000]), budget=st.sampled_from([(2, 0.2), (3, 1.0), (64, 1.0)]))
    def start(self, offset, budget):
        area = pagescan.zeros(PAGES * PAGE + offset, dtype=np.uint8)
        self.buffers: dict[str, Any] = {"a": area[offset : offset + PAGES * PAGE - 100], "b": pagescan.zeros(700)}
        self.budget = Budget(packs=budget[0], overhead=budget[1], spare=2)
        self.open()

    def open(self):
        self.store = pagescan.open_store(self.path)
        self.series = self.store.series("s", budget=self.budget, **self.buffers)

    def contents(self):
        return {name: buffer.copy() for name, buffer in self.buffers.items()}

    def committed(self, version):
        assert version.number == self.newest + 1
        assert version.parent == self.parent
        self.oracle[version.number] = self.contents()
        self.newest = self.parent = version.number
        assert version.packs <= self.budget.packs

    @rule(page=st.integers(0, PAGES - 1), count=st.integers(1, PAGES), value=st.integers(0, 3))
    def write(self, page, count, value):
        self.buffers["a"][page * PAGE : (page + count) * PAGE] = value

    @rule(at=st.integers(0, PAGES * PAGE - 101), value=st.integers(0, 255))
    def poke(self, at, value):
        self.buffers["a"][at] = value

    @rule(at=st.integers(0, 699), value=st.sampled_from([0.0, 1.5]))
    def poke_number(self, at, value):
        self.buffers["b"][at] = value

    @rule()
    def commit(self):
        self.committed(self.series.commit())

    @rule(after=st.integers(0, 5), commit=st.booleans())
    def fail(self, after, commit):
        """The backend fails at some part of the pack, or at the manifest."""
        backend = self.store.backend
        put, create = backend.put_pack, backend.create_manifest

        def put_some(name, parts):
            def some():
                for number, part in enumerate(parts):
                    if number == after:
                        raise Failure
                    yield part

            return put(name, some())

        def create_none(*_):
            raise Failure

        backend.put_pack = put_some
        if commit:
            backend.create_manifest = create_none
        try:
            self.committed(self.series.commit())
        except Failure:
            pass
        finally:
            backend.put_pack, backend.create_manifest = put, create

    @precondition(lambda self: self.oracle)
    @rule(data=st.data())
    def restore(self, data):
        number = data.draw(st.sampled_from(sorted(self.oracle)))
        before = self.contents()
        copied = self.series.restore(number)
        self.parent = number
        wanted = self.oracle[number]
        differing = sum(
            min(PAGE, len(flat) - at)
            for name, old in before.items()
            for flat, other in [(old.view(np.uint8), wanted[name].view(np.uint8))]
            for at in range(0, len(flat), PAGE)
            if not np.array_equal(flat[at : at + PAGE], other[at : at + PAGE])
        )
        assert copied == differing
        for name, buffer in self.buffers.items():
            assert np.array_equal(buffer, wanted[name])

    @precondition(lambda self: self.oracle)
    @rule(keep=st.integers(1, 4), every=st.sampled_from([None, 2, 3]))
    def prune(self, keep, every):
        numbers = sorted(self.oracle)
        kept = set(numbers[-keep:]) | {n for n in numbers if every and n % every == 0}
        removed = self.store.prune(keep_last=keep, keep_every=every).versions.get("s", ())
        assert sorted(removed) == [n for n in numbers if n not in kept]
        self.oracle = {n: self.oracle[n] for n in numbers if n in kept}
        if self.parent not in self.oracle and self.parent is not None:
            with pytest.raises(VersionConflict, match="pruned"):
                self.series.commit()
            self.series.refresh()
            self.parent = self.newest

    @rule()
    def reopen(self):
        self.series.close()
        self.store.close()
        self.open()
        self.parent = self.newest or None

    @rule(value=st.integers(0, 255))
    def another_writer(self, value):
        """Somebody else commits to the same series in between."""
        others = {name: buffer.copy() for name, buffer in self.buffers.items()}
        others["a"][5] = value
        with pagescan.open_store(self.path) as store, store.series("s", **others) as series:
            series.commit()
        with pytest.raises(VersionConflict, match="another writer"):
            self.series.commit()
        self.newest += 1
        self.oracle[self.newest] = others
        self.series.refresh()
        self.parent = self.newest

    @precondition(lambda self: self.oracle)
    @rule()
    def copy(self):
        with pagescan.open_store(self.copy_path) as other:
            self.store.copy(other)
            for number, wanted in self.oracle.items():
                read = other.read("s", number)
                assert all(np.array_equal(read[name], wanted[name]) for name in wanted)
            assert other.verify()

    @invariant()
    def every_version_reads_back(self):
        if self.store is None:
            return
        if not self.oracle:
            with pytest.raises(NoSuchVersion):
                self.store.versions("s")
            return
        assert [version.number for version in self.store.versions("s")] == sorted(self.oracle)
        for number, wanted in self.oracle.items():
            read = self.store.read("s", number)
            assert read.keys() == wanted.keys()
            assert all(np.array_equal(read[name], wanted[name]) for name in wanted)

    def teardown(self):
        if self.store is not None:
            found = self.store.verify()
            self.series.close()
            self.store.close()
            assert found.damage == ()
        self.folder.cleanup()


TestStoreHistories = StoreHistories.TestCase
TestStoreHistories.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestStoreHistories = pytest.mark.usefixtures("tracking")(TestStoreHistories)


class ObjectStoreHistories(StoreHistories):
    """The same in object storage."""

    def __init__(self):
        super().__init__()
        self.path = f"memory://{secrets.token_hex(8)}"


TestObjectStoreHistories = ObjectStoreHistories.TestCase
TestObjectStoreHistories.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
TestObjectStoreHistories = needs_obstore(pytest.mark.usefixtures("tracking")(TestObjectStoreHistories))
