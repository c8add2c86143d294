"""The pytest plugin: the fixture ``assert_unwritten``, which fails a test that writes to memory it should leave alone.

pytest loads this module in every run on a machine that has pagescan installed, so it imports nothing but pytest;
pagescan itself, and numpy, come when a test uses the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

    from .trackers.watch import Watch
    from .trackers.written import Written


class Unwritten:
    """Buffers that must not be written to: until the end of its ``with`` block, or without one until the test ends.

    Made by calling the fixture, and watching from then on.
    """

    def __init__(self, watch: Watch, buffers: dict[str, Any]):
        self._watch = watch
        self._buffers = buffers

    def check(self) -> None:
        """Fail now if anything was written to; if not, go on watching."""
        __tracebackhide__ = True
        if message := self._verdict():
            pytest.fail(message)

    def _verdict(self) -> str | None:
        """What to fail with; then it watches no longer. None if nothing was written to, or it has ended."""
        if self._watch.closed or not (written := self._watch.peek()):
            return None
        message = _explain(written, self._buffers, self._watch.engine)
        self.close()
        return message

    def close(self) -> None:
        """Watch no longer, and do not check."""
        self._watch.close()
        self._buffers = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        try:
            if kind is None:
                self.check()
        finally:
            self.close()


class Guard:
    """The fixture's value: call it with what must not be written to."""

    def __init__(self) -> None:
        self._armed: list[Unwritten] = []

    def __call__(self, *buffers: Any, engine: str = "auto", **named: Any) -> Unwritten:
        """Watch these buffers from now on: within ``with``, or until the test ends.

        Args:
            buffers, named: numpy arrays, ``bytearray``, ``mmap`` and all else that ``pagescan.track`` takes. A failure
                calls them by their names, or by their places.
            engine: how writes are found; ``"auto"`` takes the best that this machine has.
        """
        from .errors import InvalidArgument
        from .trackers.watch import Watch

        if not buffers and not named:
            raise InvalidArgument("assert_unwritten() was given nothing to watch", hint="assert_unwritten(array)")
        given = {f"argument {index}": buffer for index, buffer in enumerate(buffers, 1)} | named
        self._armed.append(Unwritten(Watch(*given.values(), engine=engine), given))
        return self._armed[-1]

    def check_all(self) -> None:
        """Check everything that is still watched. The test is over, so no line of it is to blame."""
        if messages := [message for armed in self._armed if (message := armed._verdict())]:
            pytest.fail("\n".join(messages), pytrace=False)

    def close(self) -> None:
        """Watch nothing any longer."""
        for armed in self._armed:
            armed.close()


_GUARD = pytest.StashKey[Guard]()


@pytest.fixture
def assert_unwritten(request: pytest.FixtureRequest) -> Iterator[Guard]:
    """Fail the test if it writes to these arrays: ``with assert_unwritten(a): ...``, or ``assert_unwritten(a)`` until
    the test ends. The message names the slices that were written to (docs: pagescan, pytest)."""
    guard = request.node.stash[_GUARD] = Guard()
    yield guard
    guard.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Checks at the end of the test itself, so that it fails, rather than its teardown."""
    result = yield
    guard = item.stash.get(_GUARD, None)
    if guard is not None:
        guard.check_all()
    return result


def _explain(written: Written, buffers: dict[str, Any], engine: str) -> str:
    """What was written to, in the elements of each buffer."""
    from .trackers.wrote import show_slices

    lines = ["memory that must not be written to was:"]
    for name, buffer in buffers.items():
        if slices := written.slices(buffer):
            lines.append(f"  {name} ({_describe(buffer)}): elements {show_slices(slices, 8)}")
    how = "a write to one element names them all, also if it changed no value"
    if engine == "compare":
        how = "contents were compared"
    size = f"{written.page_size:,} bytes"
    lines.append(f"Elements are those of array.reshape(-1). A slice is as wide as its pages, of {size}: {how}.")
    if written.reason:
        lines.append(f"Perhaps less was written to: {written.reason}.")
    return "\n".join(lines)


def _describe(buffer: Any) -> str:
    kind = type(buffer).__name__
    shaped = hasattr(buffer, "dtype") and hasattr(buffer, "shape")
    return f"{kind} of {buffer.dtype}, shape {tuple(buffer.shape)}" if shaped else kind
