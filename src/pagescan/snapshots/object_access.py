"""One place in object storage, in a few calls, through obstore; its errors in our words.

Everything is keyed by a path relative to the place. obstore (extra ``[s3]``) is imported when a place is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from ..errors import Closed, InvalidArgument, MissingExtra
from .object_errors import explain, no_bucket, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from types import ModuleType

T = TypeVar("T")

#: What a URL may begin with.
SCHEMES = ("s3", "gs", "az", "file", "memory")
#: Objects up to this size are put in one request; larger ones in parts of it, several at once.
_PART = 8 << 20
#: Requests at the same time.
_AT_ONCE = 16

#: ``memory://NAME`` of this process. What is kept there lives as long as the process.
_memory: dict[str, Any] = {}
#: The process that first used obstore: its threads do not survive a fork.
_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An object, as a listing shows it.

    Attributes:
        key: relative to the place.
        size: bytes.
        written_ns: when it was written, by the storage's clock, in nanoseconds since 1970.
    """

    key: str
    size: int
    written_ns: int


class Place:
    """Objects under one prefix. Not for two threads at a time."""

    #: Whether requests go over a network, and so may take long.
    remote = True

    def __init__(self, url: str, store: Any):
        self.url = url
        self._store: Any = store
        self._obstore = _import_obstore()

    def get(self, key: str) -> bytes:
        """A whole object. Raises KeyError if there is none."""
        with self._explained(), _missing_is_key_error(key):
            return self._call(lambda store: bytes(self._obstore.get(store, key).bytes()))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of an object, fewer if it is shorter. Raises KeyError if there is none."""
        (found,) = self.get_ranges([(key, start, length)])
        if found is None:
            raise KeyError(key)
        return found

    def get_ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """:meth:`get_range` of each (key, start, length), several at once; None where there is no such object."""
        # obstore refuses to read nothing.
        some = [(key, {"start": start, "length": max(1, length)}) for key, start, length in wanted]
        answers = self._call_all("get_range", some)
        return [self._range(answer, *each) for answer, each in zip(answers, wanted, strict=True)]

    def _range(self, answer: Any, key: str, start: int, length: int) -> bytes | None:
        if isinstance(answer, FileNotFoundError):
            return None
        with self._explained():
            if isinstance(answer, self._obstore.exceptions.GenericError):
                # Beyond the end is an error of another text everywhere; the size settles it.
                if self._call(lambda store: self._obstore.head(store, key))["size"] > start:
                    raise answer
                return b""
            if isinstance(answer, BaseException):
                raise answer
        return bytes(answer)[:length]

    def put(self, key: str, data: bytes) -> None:
        """Make or replace an object, in one step."""
        with self._explained():
            self._call(lambda store: self._obstore.put(store, key, data, use_multipart=False))

    def create(self, key: str, data: bytes) -> bool:
        """Make an object in one step, unless there is one: then nothing changes, and the answer is False."""
        with self._explained():
            try:
                self._call(lambda store: self._obstore.put(store, key, data, mode="create", use_multipart=False))
            except self._obstore.exceptions.AlreadyExistsError:
                return False
            return True

    def upload(self, key: str, parts: Iterable[bytes]) -> int:
        """Make an object of parts that are made meanwhile; returns its size in bytes. It appears when it is whole."""
        size, rest = 0, iter(parts)

        def counted() -> Iterator[bytes]:
            nonlocal size
            for part in rest:
                size += len(part)
                yield part

        stream = counted()
        first = b"".join(_until(stream, _PART))
        with self._explained():
            if size < _PART:
                self._call(lambda store: self._obstore.put(store, key, first, use_multipart=False))
            else:
                whole = itertools.chain([first], stream)
                self._call(lambda store: self._obstore.put(store, key, whole, chunk_size=_PART))
        return size

    def items(self, folder: str) -> list[Item]:
        """The objects under a folder, in the order of their keys."""
        with self._explained():
            found = self._call(lambda store: [meta for metas in self._obstore.list(store, folder) for meta in metas])
        items = [Item(meta["path"], meta["size"], _nanoseconds(meta["last_modified"])) for meta in found]
        return sorted(items, key=lambda item: item.key)

    def now_ns(self, key: str) -> int:
        """The time by the storage's clock: that of an object that is written for it."""
        self.put(key, b"")
        with self._explained():
            return _nanoseconds(self._call(lambda store: self._obstore.head(store, key))["last_modified"])

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder."""
        with self._explained():
            found = self._call(lambda store: self._obstore.list_with_delimiter(store, folder))["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def absent(self, keys: Sequence[str]) -> list[str]:
        """Those keys under which there is no object; asks for several at once."""
        return self._missing("head", keys)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error."""
        if not keys:
            return
        with self._explained():
            try:
                self._call(lambda store: self._obstore.delete(store, list(keys)))
            except FileNotFoundError:  # some of them, somewhere among the others: one by one
                self._missing("delete", keys)

    def _missing(self, name: str, keys: Sequence[str]) -> list[str]:
        """A function of obstore's for each key: those that are not there. Raises any other error."""
        answers = self._call_all(name, [(key, {}) for key in keys])
        with self._explained():
            for answer in answers:
                if isinstance(answer, BaseException) and not isinstance(answer, FileNotFoundError):
                    raise answer
        return [key for key, answer in zip(keys, answers, strict=True) if isinstance(answer, FileNotFoundError)]

    def close(self) -> None:
        """Let go of it."""
        self._store = None

    def _call(self, function: Callable[[Any], T]) -> T:
        """``function`` of obstore's store."""
        store = self._used()
        return _interruptible(lambda: function(store)) if self.remote else function(store)

    def _call_all(self, name: str, wanted: Sequence[tuple[str, dict[str, int]]]) -> list[Any]:
        """A function of obstore's for each key and its options, several at once; an error is the answer of its own."""
        store = self._used()
        if not self.remote:
            return [_answer(getattr(self._obstore, name), store, key, options) for key, options in wanted]
        function = getattr(self._obstore, f"{name}_async")

        async def all_of_them() -> list[Any]:
            free = asyncio.Semaphore(_AT_ONCE)

            async def one(key: str, options: dict[str, int]) -> Any:
                async with free:
                    return await function(store, key, **options)

            return await asyncio.gather(*(one(*each) for each in wanted), return_exceptions=True)

        return _interruptible(lambda: asyncio.run(all_of_them()))

    def _used(self) -> Any:
        if self._store is None:
            raise Closed(f"the store {self.url} is closed", hint="call pagescan.open_store() again")
        _check_process(self.url)
        return self._store

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """obstore's errors as ours. What the body itself raises goes through as it is."""
        try:
            yield
        except (self._obstore.exceptions.BaseError, FileNotFoundError, PermissionError, TimeoutError) as error:
            raise explain(self.url, error) from error


class Folder(Place):
    """A folder of this machine, or of a file system shared by many. What was put is on the disk on return."""

    remote = False

    def __init__(self, url: str, path: Path, store: Any):
        super().__init__(url, store)
        self._path = path
        #: Folders of which it is known that they are on the disk themselves.
        self._durable: set[Path] = {path.parent}

    def put(self, key: str, data: bytes) -> None:
        self._move(data, key, overwrite=True)

    def create(self, key: str, data: bytes) -> bool:
        return self._move(data, key, overwrite=False)

    def upload(self, key: str, parts: Iterable[bytes]) -> int:
        self._make_private(key)
        size = super().upload(key, parts)
        self._sync(self._path / key)
        self._sync_name(key)
        return size

    def _move(self, data: bytes, key: str, *, overwrite: bool) -> bool:
        # Under its own name only once its bytes are on the disk: an empty one would take the name for ever. What a
        # crash leaves here looks like a pack that no manifest names, and goes with those.
        staged = f"packs/{os.urandom(16).hex()}"
        self._make_private(staged)
        self._make_private(key)
        super().put(staged, data)
        self._sync(self._path / staged)
        with self._explained():
            try:
                self._obstore.rename(self._used(), staged, key, overwrite=overwrite)
            except self._obstore.exceptions.AlreadyExistsError:
                self._obstore.delete(self._used(), staged)
                return False
        self._sync_name(key)
        return True

    def _make_private(self, key: str) -> None:
        """Make the folder that a key begins with its owner's alone, if it is not there."""
        top, folder, _ = key.partition("/")
        if folder:
            with self._explained():
                (self._path / top).mkdir(mode=0o700, exist_ok=True)

    def _sync_name(self, key: str) -> None:
        """Put the name of a file on the disk: its folder, and those above that may be new."""
        folder = (self._path / key).parent
        self._sync(folder)
        for above in folder.parents:
            if folder in self._durable:
                break
            self._sync(above)
            self._durable.add(folder)
            folder = above

    def _sync(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise explain(self.url, error) from error


class Memory(Place):
    """Memory of this process."""

    remote = False


def open_place(url: str, *, create: bool, options: dict[str, Any]) -> Place:
    """The place that a URL names. ``create``: make the folder of a ``file://`` one.

    Raises InvalidArgument, MissingExtra, AccessDenied, StoreUnavailable.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise InvalidArgument(
            f"no store is known for {url!r}",
            hint="give the path of a file, or a URL that begins with " + ", ".join(f"{name}://" for name in SCHEMES),
        )
    obstore = _import_obstore()
    _check_process(url)
    if scheme in ("file", "memory"):
        if options:
            raise InvalidArgument(f"{scheme}:// takes no options, and was given {', '.join(options)}")
        return _folder(url, create) if scheme == "file" else _in_memory(url)
    try:
        return Place(url, obstore.store.from_url(url, **_with_http(options)))
    except (obstore.exceptions.UnknownConfigurationKeyError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"{url} cannot be opened with these options: {words(error)}",
            hint="options are those of obstore's store classes: endpoint=, region=, access_key_id=, ...",
        ) from error
    except obstore.exceptions.BaseError as error:
        raise explain(url, error) from error


def _folder(url: str, create: bool) -> Folder:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise InvalidArgument(f"{url!r} names no folder of this machine", hint="write file:///absolute/path")
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.is_dir():
            raise InvalidArgument(f"there is no store at {url}")
        return Folder(url, path, _import_obstore().store.LocalStore(path))
    except OSError as error:
        raise explain(url, error) from error


def _in_memory(url: str) -> Place:
    name = url.partition("://")[2].strip("/")
    make = _import_obstore().store.MemoryStore
    # Without a name nobody else could want it.
    return Memory(url, make() if not name else _memory.setdefault(name, make()))


def _with_http(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with plain http allowed where the endpoint says so itself."""
    names = ("endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url")
    given = [options[name] for name in names if name in options]
    given += [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")]
    if not str(next(filter(None, given), "")).startswith("http://"):
        return options
    return {**options, "client_options": {"allow_http": True, **options.get("client_options", {})}}


def _interruptible(function: Callable[[], T]) -> T:
    """The answer of a function that may wait for minutes without looking for Ctrl-C: so another thread waits."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:  # noqa: BLE001  # the caller raises it
            answer.set_exception(error)

    # Not of a pool: the interpreter would wait for that one when it ends.
    threading.Thread(target=run, name="pagescan-objects", daemon=True).start()
    while not answer.done():
        # Again and again: a signal that comes just before the wait begins would be seen at its end only.
        wait([answer], timeout=0.5)
    return answer.result()


def _answer(function: Callable[..., Any], store: Any, key: str, options: dict[str, int]) -> Any:
    try:
        return function(store, key, **options)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        return error


def _import_obstore() -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise MissingExtra("stores at a URL need obstore", hint="pip install 'pagescan[s3]'") from error
    return obstore


def _check_process(url: str) -> None:
    """Refuse in a forked child what would wait for ever: obstore's threads stayed in the parent."""
    global _pid
    _pid = _pid or os.getpid()
    if _pid != os.getpid():
        raise Closed(
            f"{url} cannot be used in a process that was forked after stores at URLs were used",
            hint='start workers as new processes: multiprocessing.get_context("spawn")',
        )


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * 1e6) * 1000


@contextlib.contextmanager
def _missing_is_key_error(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if no_bucket(str(error)):
            raise
        raise KeyError(key) from None


def _until(parts: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Parts of so many bytes together, or a little more."""
    for part in parts:
        yield part
        size -= len(part)
        if size <= 0:
            return
