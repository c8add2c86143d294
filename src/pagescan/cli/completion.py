"""``pagescan completion``: the script with which a shell completes pagescan's commands and options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra
from .command import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
#: What stands in the help for a file's name.
_FILES = {"FILE", "OUT", "PATH"}
#: The shells list processes in their own ways.
_PIDS = {
    "bash": "_pagescan_pids",
    "zsh": "_pids",
    "fish": "(__fish_complete_pids)",
    "preamble": {
        "bash": '_pagescan_pids() { compgen -W "$(cd /proc && printf \'%s \' [0-9]*)" -- "$1"; }',
    },
}


class Completion:
    """Print the script that lets a shell complete commands and options.

    bash:  pagescan completion bash > ~/.local/share/bash-completion/completions/pagescan
    zsh:   pagescan completion zsh > ~/.zfunc/_pagescan   (with  fpath+=~/.zfunc  before compinit in ~/.zshrc)
    fish:  pagescan completion fish > ~/.config/fish/completions/pagescan.fish

    Print it anew after an update of pagescan.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")

    def run(self, options: argparse.Namespace) -> int:
        print(script(options.shell))
        return ExitCode.DONE


def script(shell: str) -> str:
    """The completion script of one of SHELLS. Raises MissingExtra without shtab."""
    from . import COMMANDS, build_parser, load

    try:
        import shtab
    except ImportError:
        raise MissingExtra(
            "completion scripts need the package shtab, which is not installed", hint="pip install 'pagescan[cli]'"
        ) from None
    parser = build_parser(load(COMMANDS))
    for one in parsers(parser):
        # One line for each command; its whole help is too much for a list of choices.
        one.description = (one.description or "").split("\n")[0]
        for action in one._actions:
            _complete_values(action, shtab.FILE)
    return str(shtab.complete(parser, shell=shell))


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from parsers(one)


def _complete_values(action: argparse.Action, files: Any) -> None:
    if action.metavar in _FILES:
        action.complete = files  # type: ignore[attr-defined]
    elif action.dest == "pid":
        action.complete = _PIDS  # type: ignore[attr-defined]
