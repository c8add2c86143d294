"""What every command is, and the codes with which one ends."""

from __future__ import annotations

import argparse
import enum
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ExitCode(enum.IntEnum):
    """How ``pagescan`` ends."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_SUCH_PROCESS = 3
    NO_PERMISSION = 4
    KERNEL_CANNOT = 5
    DATA_CORRUPT = 6
    INTERRUPTED = 130


class Command(Protocol):
    """One command. Its docstring is its help: the first line alone stands in the list of commands."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it: data to stdout, words to stderr. Returns the exit code; raises PagescanError."""


def parsed_by(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A parser of the library as an argparse ``type``: its error keeps its words."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except InvalidArgument as error:
            said = f"{error.message}; {error.hint}" if error.hint else error.message
            raise argparse.ArgumentTypeError(said) from error

    return convert


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InvalidArgument(f"{text!r} is no whole number above 0")
    return int(text)
