"""``pagescan report``: what a recording shows."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

from ..errors import InvalidArgument
from ..units import format_size, parse_duration, parse_size
from .command import ExitCode, parsed_by, positive
from .output import encodable, note, use_colour, width_of, write_csv, write_json

if TYPE_CHECKING:
    import argparse

    from ..reports import Material, Report, Screen, Wishes

SCHEMA_VERSION = 1
#: In the order of the help. Not read from the reports, which would load numpy for ``--help``.
KINDS = ("summary", "heatmap", "regions", "working-set", "migration")
#: What a pipe gets: as wide as a page of text.
_PIPE = (100, 40)
_BITS = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt])bit(?:/s|ps)?", re.IGNORECASE | re.ASCII)


class ReportCommand:
    """Show what a recording has, also as HTML or data.

    FILE is a recording made by `pagescan record`; it may still be growing. What to show, by default the summary:

      summary       what was recorded, how much was written, where, and what recording it cost
      heatmap       which share of which memory was written to, when
      regions       the memory that was written to in most samples
      working-set   distinct pages written to within windows of time
      migration     rounds and downtime of a live migration by pre-copy

    Text goes to the terminal. --json and --csv write data to stdout; --html and --png write a file. The HTML file
    holds all reports at once, with a heat map to zoom into; it needs no network, and nothing but itself.

    Examples:
      pagescan report run.pagescan
      pagescan report run.pagescan heatmap
      pagescan report run.pagescan --html run.html
      pagescan report run.pagescan migration --bandwidth 1Gbit,10Gbit --downtime 100ms
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the recording")
        parser.add_argument("kind", nargs="?", choices=KINDS, metavar="WHAT", help=", ".join(KINDS))
        form = parser.add_argument_group("how to show it").add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON document (docs/commands/report.md)")
        form.add_argument("--csv", action="store_true", help="comma-separated values with a header")
        form.add_argument("--html", metavar="OUT", help="write one self-contained HTML file")
        form.add_argument("--png", metavar="OUT", help="write a picture (needs matplotlib)")
        parser.add_argument("--force", action="store_true", help="overwrite OUT")
        choice = parser.add_argument_group("what to choose")
        number = parsed_by(positive)
        choice.add_argument("--rows", type=number, metavar="N", help="heatmap: at most N rows of addresses")
        choice.add_argument("--columns", type=number, metavar="N", help="heatmap: at most N columns of time")
        choice.add_argument("--limit", type=number, default=20, metavar="N", help="regions: how many (default: 20)")
        choice.add_argument(
            "--windows", type=parsed_by(_durations), default=(), metavar="TIMES", help="working-set: 100ms,1s,10s"
        )
        choice.add_argument(
            "--bandwidth", type=parsed_by(_bandwidths), metavar="LIST", help="migration: 1Gbit,10Gbit, or bytes: 125M"
        )
        choice.add_argument(
            "--downtime", type=parsed_by(parse_duration), default=300_000_000, metavar="TIME",
            help="migration: the process may stand still so long (default: 300ms)",
        )  # fmt: skip
        choice.add_argument(
            "--memory", type=parsed_by(parse_size), metavar="SIZE",
            help="migration: what the first round sends (default: the resident memory)",
        )  # fmt: skip

    def run(self, options: argparse.Namespace) -> int:
        from ..recording import Recording
        from ..reports import REPORTS, Material

        out = options.html or options.png
        if out:
            _check_out(options.file, out, options.force)
        with Recording.open(options.file) as recording:
            material = Material.of(recording)
        wishes = _wishes(options)
        if out:
            _write_file(material, wishes, options, out)
        else:
            kind = options.kind or "summary"
            _print(REPORTS[kind].of(material, wishes), kind, material, options)
        return _tell_damage(material)


def _check_out(file: str, out: str, force: bool) -> None:
    """Raises before there is any work to lose."""
    from ..reports.save import check_free

    if os.path.exists(out) and os.path.exists(file) and os.path.samefile(file, out):
        raise InvalidArgument(f"{out} is the recording itself", hint="give the report a name of its own")
    check_free(out, force=force)


def _wishes(options: argparse.Namespace) -> Wishes:
    from ..reports import Wishes

    return Wishes(
        rows=options.rows,
        columns=options.columns,
        limit=options.limit,
        windows_ns=options.windows,
        bandwidths=options.bandwidth or Wishes().bandwidths,
        downtime_ns=options.downtime,
        memory_bytes=options.memory,
    )


def _print(report: Report, kind: str, material: Material, options: argparse.Namespace) -> None:
    if options.json:
        write_json(f"report.{kind}", SCHEMA_VERSION, {"recording": material.document()} | report.document())
    elif options.csv:
        write_csv(*report.table())
    else:
        for line in report.lines(_screen()):
            print(encodable(line))


def _write_file(material: Material, wishes: Wishes, options: argparse.Namespace, out: str) -> None:
    from ..reports.save import save

    if options.html:
        from ..reports.html import html_page

        content = html_page(material, wishes)
    else:
        from ..reports.png import png_image

        content = png_image(material, wishes, options.kind or "heatmap")
    save(out, content, force=options.force)
    note(f"wrote {out} ({format_size(len(content))})")


def _screen() -> Screen:
    """What stdout is."""
    from ..reports import Screen

    size = shutil.get_terminal_size(_PIPE)
    terminal = sys.stdout.isatty()
    width = min(size.columns, width_of(sys.stdout)) if terminal else min(width_of(sys.stdout), _PIPE[0])
    try:
        "░█▁".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        blocks = False
    else:
        blocks = True
    return Screen(width, size.lines if terminal else _PIPE[1], use_colour(sys.stdout), blocks)


def _tell_damage(material: Material) -> int:
    """Names the damaged samples on stderr, and says so by the exit code."""
    for error in material.damaged[:10]:
        note(error.message)
    if len(material.damaged) > 10:
        note(f"and {len(material.damaged) - 10} more damaged samples")
    if material.damaged:
        note("the rest is reported; a damaged sample counts as one in which nothing was written")
    return ExitCode.DATA_CORRUPT if material.damaged else ExitCode.DONE


def _durations(text: str) -> tuple[int, ...]:
    found = tuple(parse_duration(part) for part in text.split(","))
    if 0 in found:
        raise InvalidArgument(f"{text!r}: a window of no length")
    return found


def _bandwidths(text: str) -> tuple[int, ...]:
    return tuple(_bandwidth(part.strip()) for part in text.split(","))


def _bandwidth(text: str) -> int:
    """Bytes per second, from decimal bits (10Gbit) or a size."""
    found = _BITS.fullmatch(text)
    value = round(float(found[1]) * 1000 ** ("kmgt".index(found[2].lower()) + 1) / 8) if found else parse_size(text)
    if not value:
        raise InvalidArgument(f"{text!r} is no bandwidth", hint="give bits (10Gbit) or bytes (125M) per second")
    return value
