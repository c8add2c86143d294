"""``pagescan snapshot``: versions of a process's memory, and of buffers, in a store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import InvalidArgument
from ..units import SECOND, parse_duration
from .command import parsed_by, positive

if TYPE_CHECKING:
    from collections.abc import Callable


class Snapshot:
    """Keep versions of a process's memory in a store.

    STORE is a file (SQLite, readable by its owner only), or object storage: s3://bucket/prefix, gs://, az://,
    file:///folder. A store holds series, each a row of versions; a version holds named buffers. `pagescan snapshot
    create` makes them of a live process, pagescan.open_store of arrays in a program; the others work on both.

    Each version writes only what has changed since the one before. `restore` writes the contents of memory to files.
    It does not bring a process back: registers, open files and threads are not kept.

    Examples:
      pagescan snapshot create -p 1234 state.pagescan
      pagescan snapshot create -p 1234 state.pagescan --every 10s --count 6
      pagescan snapshot list state.pagescan
      pagescan snapshot diff state.pagescan 1 2
      pagescan snapshot restore state.pagescan -o folder
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))
        for name, add in ACTIONS.items():
            lines = (add.__doc__ or "").strip().splitlines()
            one = actions.add_parser(
                name,
                help=lines[0].rstrip("."),
                description="\n".join(line.removeprefix("    ") for line in lines),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            add(one)
            one.add_argument("--json", action="store_true", help="one JSON document (docs/commands/snapshot.md)")

    def run(self, options: argparse.Namespace) -> int:
        if options.action is None:
            raise InvalidArgument(
                f"say what to do: {', '.join(ACTIONS)}",
                hint="pagescan snapshot list STORE; or: pagescan snapshot --help",
            )
        if options.action == "create":
            from .snapshot_create import create

            return create(options)
        from . import snapshot_look

        work: Callable[[argparse.Namespace], int] = getattr(snapshot_look, f"{options.action}_store")
        return work(options)


def _add_create(parser: argparse.ArgumentParser) -> None:
    """Make versions of a live process's memory.

    Everything that it can write to is kept: heap, stacks, anonymous memory, data of libraries, shared memory. Memory
    that was never touched is left out. The first version of a run compares all pages with the newest one in the
    store; later ones read only pages that were written to since. The process stands still (SIGSTOP) while a version
    is made, so that it is of one moment.

    With --every it goes on until --count versions are made, the process exits, or by Ctrl-C.

    Memory holds secrets. A store in a file is readable by its owner only; keep it so.
    """
    duration = parsed_by(parse_duration)
    parser.add_argument("-p", "--pid", type=parsed_by(positive), required=True, help="the process, which runs")
    _add_store(parser, "made if it is not there")
    parser.add_argument("--series", metavar="NAME", help="the name of the series (COMMAND-PID)")
    parser.add_argument(
        "--mappings",
        action="append",
        metavar="GLOB",
        help="only mappings of this name ('[heap]', '*.so*', '' for anonymous memory); may be repeated",
    )
    parser.add_argument("--every", type=duration, metavar="TIME", help="make a version each time, as in 10s")
    parser.add_argument(
        "--count", type=parsed_by(positive), metavar="N", help="end after N versions (1; with --every: none)"
    )
    parser.add_argument("--no-freeze", action="store_true", help="do not stop the process meanwhile: a mix of moments")
    parser.add_argument("--note", default="", help="words to keep with each version")


def _add_list(parser: argparse.ArgumentParser) -> None:
    """List the series and versions of a store."""
    _add_store(parser)
    parser.add_argument("--series", metavar="NAME", help="only this series")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    """Read everything and check it against its digests.

    The exit code is 6 if something is damaged.
    """
    _add_store(parser)
    parser.add_argument("--series", metavar="NAME", help="only this series")


def _add_show(parser: argparse.ArgumentParser) -> None:
    """Show the buffers of a version."""
    _add_store(parser)
    _add_version(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    """Show what changed between two versions, in whole pages."""
    _add_store(parser)
    number = parsed_by(positive)
    parser.add_argument("one", type=number, metavar="VERSION", help="the number of a version")
    parser.add_argument("other", type=number, metavar="VERSION", help="and of another")
    parser.add_argument("--series", metavar="NAME", help="the series, if there are several")
    parser.add_argument("--regions", action="store_true", help="one line for each run of changed pages")


def _add_restore(parser: argparse.ArgumentParser) -> None:
    """Write the buffers of a version to files.

    It restores the contents of memory, not a process: a program that has ended does not run again. Arrays become .npy
    files, and the memory of a process raw images, one a mapping; index.json says where each was.
    """
    _add_store(parser)
    _add_version(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="made if it is not there")
    parser.add_argument("--buffer", action="append", metavar="GLOB", help="only buffers of this name; may be repeated")
    parser.add_argument("--raw", action="store_true", help="plain bytes also of arrays, which else become .npy files")
    parser.add_argument("--force", action="store_true", help="overwrite files")


def _add_prune(parser: argparse.ArgumentParser) -> None:
    """Forget versions, and give back what only they needed.

    The newest version of a series stays in any case.
    """
    _add_store(parser)
    number = parsed_by(positive)
    parser.add_argument("--series", metavar="NAME", help="only this series")
    parser.add_argument("--keep-last", type=number, metavar="N", help="how many of the newest stay")
    parser.add_argument("--keep-every", type=number, metavar="N", help="versions whose numbers are multiples of N stay")
    parser.add_argument(
        "--grace", type=parsed_by(parse_duration), metavar="TIME",
        help="leave packs alone that are younger and that no version needs (1h; object storage: 24h)",
    )  # fmt: skip


def _add_store(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument("store", metavar="STORE", help=f"a file or URL{more and ', '}{more}")


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--series", metavar="NAME", help="the series, if there are several")
    parser.add_argument("--version", type=parsed_by(positive), metavar="N", help="the version (the newest)")


def seconds(nanoseconds: int | None) -> float | None:
    """A duration as the library takes it."""
    return None if nanoseconds is None else nanoseconds / SECOND


#: What one can do, by name. The docstring of each is its help.
ACTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "create": _add_create,
    "list": _add_list,
    "show": _add_show,
    "diff": _add_diff,
    "verify": _add_verify,
    "restore": _add_restore,
    "prune": _add_prune,
}
