"""Stores: where versions are kept. :func:`open_store` opens one."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import numpy as np

from ..errors import InvalidArgument, NoSuchVersion
from . import maintain
from .commit import commit_parts
from .contents import load, read_manifest
from .digests import differ
from .local import LocalBackend
from .manifest import dtype_of
from .reader import all_pages, read_pages
from .series import Series, part_prefix
from .version import Version, number_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from .base import Backend
    from .budget import Budget
    from .commit import Prepared
    from .contents import Contents
    from .maintain import Copied, Progress, Pruned, Verification
    from .manifest import BufferEntry


def open_store(url: str | os.PathLike[str], *, create: bool = True, **options: Any) -> Store:
    """Open a store, or make a new one.

    Args:
        url: a path: one SQLite file, readable by its owner only. Or object storage, for many machines (extra ``[s3]``):
            ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``, ``file:///folder``, or, within
            this process, ``memory://name`` (``memory://`` alone is a new one each time).
        create: whether to make one where there is none.
        options: for object storage, what obstore's store of that kind takes: ``endpoint=``, ``region=``,
            ``access_key_id=``, ``client_options={...}``, ``retry_config={...}``. What is not given is taken from the
            environment (``AWS_ACCESS_KEY_ID``, ...).

    Raises:
        InvalidArgument: there is none (``create=False``), no such bucket, or its format is not this pagescan's.
        DataCorrupt: what is there is no store.
        AccessDenied: it belongs to somebody else, or credentials are missing.
        StoreUnavailable: the storage does not answer.
        MissingExtra: object storage needs obstore.
    """
    return Store(_backend(url, create, options))


def _backend(url: str | os.PathLike[str], create: bool, options: dict[str, Any]) -> Backend:
    if isinstance(url, str) and "://" in url:
        from .objects import ObjectBackend

        return ObjectBackend(url, create=create, options=options)
    if options:
        raise InvalidArgument(f"a store in a file takes no options, and was given {', '.join(options)}")
    return LocalBackend(Path(url), create=create)


class Store:
    """Versions of series of buffers. Made by :func:`open_store`. A context manager; safe to use from several threads.

    Attributes:
        backend: what keeps its packs and manifests.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self._lock = threading.RLock()

    @property
    def url(self) -> str:
        """Where it is."""
        return self.backend.url

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One thread at a time."""
        with self._lock:
            yield

    def series(
        self,
        name: str,
        /,
        *,
        part: str | None = None,
        engine: str = "auto",
        budget: Budget | None = None,
        relayout: bool = False,
        **buffers: Any,
    ) -> Series:
        """Track these buffers, and keep versions of them under a name.

        Args:
            name: of the series; one that is in the store already goes on there.
            part: if several processes make its versions together: which part these buffers are. In a version each is
                named ``part/buffer``. See :meth:`Series.prepare`.
            engine: as for :func:`pagescan.track`.
            budget: how long a chain of packs may get.
            relayout: accept buffers of other shapes or dtypes, or other buffers, than in the newest version.
            buffers: by name: whatever :func:`pagescan.track` takes. Arrays keep their dtype and shape.

        Raises what :func:`pagescan.track` raises; InvalidArgument if the newest version has other buffers;
        DataCorrupt if it is damaged.
        """
        _check_name(name)
        return Series(self, name, buffers, part=part, engine=engine, budget=budget, relayout=relayout)

    def commit(
        self,
        parts: Sequence[Prepared],
        note: str = "",
        *,
        attributes: dict[str, Any] | None = None,
        relayout: bool = False,
    ) -> Version:
        """Make one version of what several writers prepared, by :meth:`Series.prepare`, for the same series.

        Either all of it becomes a version, or nothing. After an error it may be called again with the same parts: if
        the version was made after all, it is returned.

        Args:
            parts: what each of them returned.
            note: words to keep with the version.
            attributes: values of JSON to keep with it.
            relayout: accept that buffers of the newest version are in none of the parts.

        Raises:
            VersionConflict: another version was committed or pruned since, or it is more than half a day ago.
            InvalidArgument: the parts do not belong together, or one is missing.
        """
        with self._lock:
            return Version.of(commit_parts(self.backend, parts, note=note, attributes=attributes, relayout=relayout))

    def names(self) -> list[str]:
        """The names of the series that have a version."""
        with self._lock:
            return self.backend.series()

    def versions(self, name: str) -> list[Version]:
        """The versions of a series, oldest first. Raises NoSuchVersion for a series that is not there."""
        with self._lock:
            numbers = self.backend.versions(name)
            if not numbers:
                raise self._missing(name)
            return [Version.of(read_manifest(self.backend, name, number)[0]) for number in numbers]

    def contents(self, name: str, version: SupportsIndex, prefix: str = "") -> Contents:
        """A version with the indexes of its packs, checked; of the buffers whose names begin with ``prefix``.

        Raises NoSuchVersion, DataCorrupt.
        """
        number = number_of(version)
        try:
            return load(self.backend, name, number, prefix)
        except KeyError:
            raise self._missing(name, number) from None

    def _missing(self, name: str, number: int | None = None) -> NoSuchVersion:
        numbers = self.backend.versions(name)
        if not numbers:
            names = ", ".join(self.backend.series())
            return NoSuchVersion(f"there is no series {name!r} in {self.url}", hint=names and f"there is {names}")
        return NoSuchVersion(
            f"there is no version {number} of {name!r} in {self.url}", hint=f"the newest is {numbers[-1]}"
        )

    def read(
        self, name: str, version: SupportsIndex | None = None, *, part: str | None = None
    ) -> dict[str, NDArray[Any]]:
        """The buffers of a version as new numpy arrays; of the newest, if no version is given.

        If ``part`` is given, only of that part, under the names that they have there. Every page is checked. Raises
        NoSuchVersion, InvalidArgument (it has no such part), and DataCorrupt, which names version and buffer.
        """
        prefix = part_prefix(part)
        with self._lock:
            contents = self.contents(name, self._newest(name) if version is None else version, prefix)
            manifest = contents.manifest
            found = [entry for entry in manifest.buffers if entry.name.startswith(prefix)]
            if part is not None and not found:
                raise InvalidArgument(f"version {manifest.version} of {name!r} has no part {part!r}")
            return {entry.name.removeprefix(prefix): self.array(contents, entry) for entry in found}

    def _newest(self, name: str) -> int:
        numbers = self.backend.versions(name)
        if not numbers:
            raise self._missing(name)
        return numbers[-1]

    def array(self, contents: Contents, entry: BufferEntry) -> NDArray[Any]:
        """One buffer of a version as a new array. Raises DataCorrupt."""
        pages, page_size = all_pages(contents, entry), contents.manifest.page_size
        # Whole pages, so that the last one fits; memory that holds zeros is never touched.
        memory = np.zeros((len(pages), page_size), np.uint8)
        for page, rows in read_pages(self.backend, contents, entry, pages):
            memory[page] = rows
        return memory.reshape(-1)[: entry.nbytes].view(dtype_of(entry)).reshape(entry.shape)

    def diff(self, name: str, one: SupportsIndex, other: SupportsIndex) -> dict[str, list[slice]]:
        """What changed between two versions: of each buffer the slices of its elements, in whole pages.

        Compares digests, and reads no page. Buffers that did not change are left out; one that only one of the
        versions has, or that has another dtype or length, counts as changed from end to end. Slices are of
        ``array.reshape(-1)``.
        """
        with self._lock:
            first, second = self.contents(name, one), self.contents(name, other)
        found = {}
        old = {entry.name: entry for entry in first.manifest.buffers}
        new = {entry.name: entry for entry in second.manifest.buffers}
        for name_ in {**old, **new}:
            slices = _changed(first, old.get(name_), second, new.get(name_))
            if slices:
                found[name_] = slices
        return found

    def verify(self, name: str | None = None, *, progress: Progress | None = None) -> Verification:
        """Read everything, of one series or of all, and check it against its digests.

        Args:
            name: of the series.
            progress: called with (bytes done, bytes in all) after each pack.

        Damage is no error here: it is in the answer, by version and buffer.
        """
        with self._lock:
            return maintain.verify(self.backend, name, progress)

    def prune(
        self,
        name: str | None = None,
        *,
        keep_last: int | None = None,
        keep_every: int | None = None,
        grace: float | None = None,
    ) -> Pruned:
        """Forget versions, of one series or of all, and give back what only they needed.

        Args:
            name: of the series.
            keep_last: how many of the newest stay.
            keep_every: those whose numbers are multiples of this stay. The newest stays in any case.
            grace: seconds for which packs that no version needs are left alone, since a writer may be about to name
                them, or a reader to read them: one hour; in object storage, where nothing keeps others out, one day.

        In a file what only the forgotten versions needed goes at once; in object storage after ``grace``, at a later
        prune(). Packs that a failed commit left behind go after ``grace``. Raises DataCorrupt, and forgets nothing, if
        a version that stays cannot be read.
        """
        with self._lock:
            return maintain.prune(self.backend, name, keep_last, keep_every, grace)

    def copy(
        self, to: str | os.PathLike[str] | Store, name: str | None = None, *, progress: Progress | None = None
    ) -> Copied:
        """Bring the versions of one series or of all to another store; what is there already stays.

        Args:
            to: where: as for :func:`open_store`, or an open store.
            name: of the series.
            progress: called with (bytes done, bytes in all) after each pack.

        Everything is checked on its way. Versions keep their numbers, and arrive oldest first, each whole or not at
        all; so an interrupted copy goes on when it is called again. Raises VersionConflict if the other store has a
        different version of the same number, DataCorrupt.
        """
        if not isinstance(to, Store):
            with open_store(to) as target:
                return self.copy(target, name, progress=progress)
        if to is self:
            raise InvalidArgument("a store cannot be copied to itself")
        with self._lock, to.locked():
            return maintain.copy(self.backend, to.backend, name, progress)

    def close(self) -> None:
        """Let go of it; its series can commit no more. Closing twice is no error."""
        with self._lock:
            self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.url}>"


def _changed(first: Contents, old: BufferEntry | None, second: Contents, new: BufferEntry | None) -> list[slice]:
    entry = new or old
    assert entry is not None
    dtype = dtype_of(entry)
    if old is None or new is None or (old.dtype, old.nbytes) != (new.dtype, new.nbytes):
        return [slice(0, entry.nbytes // dtype.itemsize)] if entry.nbytes else []
    page_size = first.manifest.page_size
    pages = np.flatnonzero(differ(first.pages[old.key].digest, second.pages[new.key].digest))
    return element_slices(pages, page_size, entry.nbytes, dtype.itemsize)


def element_slices(pages: NDArray[np.int64], page_size: int, nbytes: int, itemsize: int) -> list[slice]:
    """Pages (ascending) as slices of elements, rounded outward and cut to the buffer."""
    first = np.flatnonzero(np.diff(pages, prepend=-2) != 1)
    last = np.append(first[1:] - 1, len(pages) - 1) if len(first) else first
    low = pages[first] * page_size // itemsize
    high = -(-np.minimum((pages[last] + 1) * page_size, nbytes) // itemsize)
    # Runs of pages that share an element join.
    gaps = np.flatnonzero(low[1:] > high[:-1])
    if not len(low):
        return []
    low, high = low[np.append(0, gaps + 1)], high[np.append(gaps, len(high) - 1)]
    return list(map(slice, low.tolist(), high.tolist()))


def _check_name(name: str) -> None:
    if not name or len(name) > 200 or any(ord(letter) < 32 for letter in name):
        raise InvalidArgument(f"{name!r} cannot be the name of a series", hint="use 1 to 200 printable characters")
