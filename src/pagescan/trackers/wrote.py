"""Which parts of its arguments a function wrote to: of one call, or of every call through a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from ..errors import Closed, InvalidArgument, NotABuffer, NotContiguous, PagescanError
from ..ranges import locate
from ..units import format_count
from .watch import Watch

if TYPE_CHECKING:
    from .written import Written

P = ParamSpec("P")
R = TypeVar("R")

#: What ``buffers=`` may be: buffers by name, or in a row, or a function of the call's arguments that returns either.
Buffers = Mapping[str, Any] | Iterable[Any] | Callable[..., Mapping[str, Any] | Iterable[Any]] | None

#: Slices that the sentence about a call names of each buffer.
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Wrote:
    """One call, and what it wrote to. As a string it is a sentence.

    Attributes:
        name: of the function.
        slices: for each buffer that was written to, by its argument's name: slices of ``buffer.reshape(-1)``.
        written: the same as addresses, with its ``quality`` and ``reason``.
        watched: the names of all buffers that were watched.
        result: what the function returned; None if it raised.
        error: what it raised, or None.
    """

    name: str
    slices: dict[str, list[slice]]
    written: Written
    watched: tuple[str, ...]
    result: Any = None
    error: BaseException | None = None

    def __str__(self) -> str:
        if not self.watched:
            return f"{self.name} was given no buffer"
        raised = f" and raised {type(self.error).__name__}" if self.error else ""
        parts = [f"{show_slices(slices)} of {name}" for name, slices in self.slices.items()]
        reason = f" (perhaps less: {self.written.reason})" if self.written.reason else ""
        return f"{self.name} wrote to {'elements ' if parts else 'nothing'}{'; '.join(parts)}{reason}{raised}"


def show_slices(slices: list[slice], shown: int = _SHOWN) -> str:
    """``[0:512], [1024:1536] and 3 more ranges``."""
    text = ", ".join(f"[{part.start}:{part.stop}]" for part in slices[:shown])
    rest = len(slices) - shown
    return f"{text} and {format_count(rest, 'more range')}" if rest > 0 else text


def wrote(func: Callable[..., Any], /, *args: Any, buffers: Buffers = None, **kwargs: Any) -> Wrote:
    """Call ``func(*args, **kwargs)`` and tell which parts of its arguments it wrote to.

    ::

        call = pagescan.wrote(normalise, image, out=scratch)
        call.result, call.slices            # (None, {"out": [slice(0, 4096)]})

    Args:
        buffers: what to watch, by name (``{"weights": model.weights}``) or in a row; or a function that is given the
            call's arguments and returns such. By default every argument that is a buffer: numpy arrays and all else
            that :func:`track` takes. What an argument merely refers to (a list of arrays, an object's attributes) is
            watched only if it is named here.

    Slices are whole pages, of which a write counts even if it changed no value; only in pages that the buffer shares
    with other objects are values compared. Writes of other threads meanwhile count as well. If ``func`` raises, its
    error gets a note that says what it had written to.

    The buffers are tracked anew for each call, which takes tens of milliseconds for each GiB of them.

    Raises what ``func`` raises; NotContiguous for an argument that is no single run of bytes; as :func:`track`.
    """
    observed = _Observed(func, args, kwargs, buffers)
    with observed.watch:
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            with contextlib.suppress(PagescanError):
                error.add_note(f"pagescan: {observed.outcome(error=error)}")
            raise
        return observed.outcome(result)


def reports_writes(
    report: Callable[[Wrote], object], *, buffers: Buffers = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: after each call ``report`` is given the :class:`Wrote` of it; the call's result stays as it is.

    ::

        @pagescan.reports_writes(print)                 # "blur wrote to elements [0:4096] of out"
        def blur(image, out): ...

        @pagescan.reports_writes(calls.append, buffers=lambda self, batch: {"weights": self.weights})
        def step(self, batch): ...

    A call that raises is reported too, with its ``error``. Arguments and costs as in :func:`wrote`.
    """
    if not callable(report):
        raise InvalidArgument(
            f"report = {report!r} is not callable", hint="write @reports_writes(print), or any function of a Wrote"
        )

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        _check_runs_when_called(func)

        @functools.wraps(func)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            observed = _Observed(func, args, kwargs, buffers)
            with observed.watch:
                try:
                    result = func(*args, **kwargs)
                except BaseException as error:
                    report(observed.outcome(error=error))
                    raise
                outcome = observed.outcome(result)
            report(outcome)
            return result

        return call

    return decorate


class _Observed:
    """The buffers of one call, watched."""

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], buffers: Buffers):
        _check_runs_when_called(func)
        self._name = getattr(func, "__name__", type(func).__name__)
        self._buffers = _named_buffers(func, args, kwargs, buffers)
        self.watch = Watch(*self._buffers.values())

    def outcome(self, result: Any = None, error: BaseException | None = None) -> Wrote:
        written = self.watch.peek()
        found = {name: written.slices(buffer) for name, buffer in self._buffers.items()}
        slices = {name: parts for name, parts in found.items() if parts}
        return Wrote(self._name, slices, written, tuple(found), result, error)


def _check_runs_when_called(func: Callable[..., Any]) -> None:
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        if kind(func):
            raise InvalidArgument(
                f"{getattr(func, '__name__', func)} is a {kind.__name__[2:].removesuffix('function')} function, whose "
                "body runs only after the call",
                hint="watch around what runs it: with pagescan.track(array) as tracker: ...",
            )


def _named_buffers(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], buffers: Buffers
) -> dict[str, Any]:
    """What is to be watched, by name."""
    arguments = _named_arguments(func, args, kwargs)
    if buffers is None:
        return {name: value for name, value in arguments.items() if _is_buffer(name, value)}
    chosen = buffers(*args, **kwargs) if callable(buffers) else buffers
    if isinstance(chosen, Mapping):
        return dict(chosen)
    if isinstance(chosen, np.ndarray):
        raise InvalidArgument("buffers is an array itself", hint="buffers=[array], or buffers={'name': array}")
    names = {id(value): name for name, value in arguments.items()}
    return {names.get(id(value), f"buffers[{index}]"): value for index, value in enumerate(chosen)}


def _named_arguments(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's arguments by the names of the function's parameters, where it tells them."""
    unnamed = {f"args[{index}]": value for index, value in enumerate(args)} | kwargs
    try:
        signature = inspect.signature(func)
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # a built-in function that does not tell; or a call that will fail by itself
        return unnamed
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}[{index}]": one for index, one in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _is_buffer(name: str, value: Any) -> bool:
    """Whether an argument has memory of its own that something could write to."""
    if isinstance(value, bytes):
        return False
    try:
        locate(value)
    except NotContiguous as error:
        raise NotContiguous(f"the argument {name}: {error.message}", hint="name what to watch: buffers=[...]") from None
    except (NotABuffer, Closed):
        return False
    return True
