"""The command ``pagescan``: one module a command, one class whose docstring is its help.

Data goes to stdout; words, progress and errors go to stderr. :func:`main` turns every :class:`PagescanError` into two
lines and an exit code (:class:`ExitCode`); it is the only place that does. A command is imported only when it is named,
and imports what is heavy (numpy, rich) only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from .. import __version__
from ..errors import (
    AccessDenied,
    DataCorrupt,
    InvalidArgument,
    KernelCannot,
    NoSuchProcess,
    PagescanError,
    UnknownCategory,
)
from .command import Command, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Every command: its name, and where its class is. A new command is one line here and one module.
COMMANDS = {
    "completion": "completion:Completion",
    "cow": "cow:Cow",
    "doctor": "doctor:Doctor",
    "model": "model:Model",
    "record": "record:Record",
    "report": "report:ReportCommand",
    "scan": "scan:Scan",
    "snapshot": "snapshot:Snapshot",
    "top": "top:Top",
}

#: The first class that an error is an instance of decides. What is not here is FAILED.
_EXIT_CODES: tuple[tuple[type[PagescanError], ExitCode], ...] = (
    (UnknownCategory, ExitCode.KERNEL_CANNOT),
    (InvalidArgument, ExitCode.USAGE),
    (NoSuchProcess, ExitCode.NO_SUCH_PROCESS),
    (AccessDenied, ExitCode.NO_PERMISSION),
    (KernelCannot, ExitCode.KERNEL_CANNOT),
    (DataCorrupt, ExitCode.DATA_CORRUPT),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default that of this process); returns the exit code, and never exits."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except PagescanError as error:
        return _report(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Who read from us (head, less) has seen enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except OSError as error:
        print(f"pagescan: {error}", file=sys.stderr)
        return ExitCode.FAILED
    return code


def _run(arguments: list[str]) -> int:
    named = next((word for word in arguments if not word.startswith("-")), None)
    # The other commands are needed only to list them.
    commands = load([named] if named in COMMANDS else [] if "--version" in arguments else COMMANDS)
    parser = build_parser(commands)
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:  # --help and --version; errors are raised by Parser.error
        return int(exit_.code or 0)
    if options.command is None:
        parser.color = sys.stderr.isatty()  # argparse looks at stdout whatever it is told to write to
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    return commands[options.command].run(options)


def _report(error: PagescanError) -> ExitCode:
    print(f"pagescan: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED)


def load(names: Iterable[str]) -> dict[str, Command]:
    """The commands of these names, imported."""
    commands: dict[str, Command] = {}
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        commands[name] = getattr(importlib.import_module(f".{module}", __name__), attribute)()
    return commands


class Parser(argparse.ArgumentParser):
    """argparse, but an error is raised like every other error."""

    color: bool  # since Python 3.14

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(message, hint=f"{self.prog} --help")


def build_parser(commands: dict[str, Command]) -> Parser:
    """The parser of these commands; each command's docstring is its help."""
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
    parser = Parser(
        prog="pagescan",
        description="What the page tables know of memory, and which pages were written.",
        epilog=f"Exit codes: {codes}.",
    )
    parser.add_argument("--version", action="version", version=f"pagescan {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, command in commands.items():
        text = (command.__doc__ or "").strip().splitlines()
        one = choices.add_parser(
            name,
            help=text[0].rstrip("."),
            description="\n".join(line.removeprefix("    ") for line in text),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
    return parser
