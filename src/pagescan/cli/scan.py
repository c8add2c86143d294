"""``pagescan scan``: the page states of a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..query import ALL_CATEGORIES, Category, Query, parse_categories
from ..units import format_count, parse_range
from .command import ExitCode, parsed_by, positive
from .output import note

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..abi import AddressSpace, Mapping
    from ..ranges import Regions

#: What a page has that is more than a hole: the default filter of --regions.
CONTENT = Category.PRESENT | Category.SWAPPED


class Scan:
    """Show the page states of a process, by mapping or by region.

    By default one line for each mapping that has pages: its size, and how much of it is resident, written, swapped
    out, of a file, in huge pages, or the shared page of zeros. WRITTEN is known only of memory that is being tracked.

    The masks choose the pages that are counted. A page matches if it has all categories of --required, at least one
    of --anyof and none of --excluded. The categories are:

      wpallowed   registered for tracking     pfnzero     the shared page of zeros
      written     written since protected     huge        part of a huge page
      file        of a file, or shared        soft_dirty  the soft-dirty bit is set
      present     in memory                   guard       a guard region
      swapped     swapped out, or a marker    accessed    touched since protected

    Examples:
      pagescan scan -p 1234
      pagescan scan -p 1234 --required file --excluded present,swapped --regions
      pagescan scan -p 1234 --range 0x7f0000000000+64M --json
      pagescan scan --model
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("-p", "--pid", type=parsed_by(positive), help="the process to look at")
        target.add_argument("--self", action="store_true", dest="own", help="look at this very process, to try it out")
        target.add_argument(
            "--model",
            nargs="?",
            const="workload",
            metavar="STORY",
            help="look at a process of the model, after a story of `pagescan model` (workload); works on any system",
        )
        masks = parser.add_argument_group("which pages")
        categories = parsed_by(parse_categories)
        for name, text in (
            ("required", "the page has all of these"),
            ("anyof", "the page has at least one of these"),
            ("excluded", "the page has none of these"),
        ):
            masks.add_argument(f"--{name}", type=categories, default=Category(0), metavar="CATEGORIES", help=text)
        masks.add_argument(
            "--return",
            type=categories,
            default=ALL_CATEGORIES,
            dest="returned",
            metavar="CATEGORIES",
            help="the categories to report (default: all)",
        )
        masks.add_argument(
            "--range", type=parsed_by(parse_range), metavar="START-END", help="addresses to look at; or START+SIZE"
        )
        masks.add_argument("--max-pages", type=parsed_by(positive), default=0, metavar="N", help="stop after N pages")
        shape = parser.add_argument_group("how to show them")
        shape.add_argument("--regions", action="store_true", help="one line for each run of pages in the same state")
        shape.add_argument("--all", action="store_true", help="also mappings, and regions, without any page")
        form = shape.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON document (docs/commands/scan.md)")
        form.add_argument("--csv", action="store_true", help="comma-separated values with a header")

    def run(self, options: argparse.Namespace) -> int:
        from . import scan_output

        console = None if options.json or options.csv or options.regions else scan_output.rich_console()
        answer = look(options)
        explain_untracked(answer)
        if options.json:
            scan_output.print_json(answer, options)
        elif options.csv:
            scan_output.print_csv(answer, options)
        elif console is None:
            scan_output.print_regions(answer)
        else:
            scan_output.print_mappings(answer, options, console)
        return ExitCode.DONE


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked of a process, and what was found.

    Attributes:
        pid: the process.
        label: the process in words.
        page_size: bytes.
        query: the masks as they were used.
        mappings: what was mapped in the range, cut to it, by address.
        regions: the pages that matched.
        tracked: the pages that are registered for tracking.
    """

    pid: int
    label: str
    page_size: int
    query: Query
    mappings: Sequence[Mapping]
    regions: Regions
    tracked: Regions

    @property
    def filtered(self) -> bool:
        """Whether a mask chose the pages."""
        return bool(self.query.asked)


def look(options: argparse.Namespace) -> Answer:
    """Scan what the options name. Raises PagescanError."""
    from ..scanning.walk import scan
    from .by_mapping import clip

    pid, space = _target(options)
    start, end = options.range or (None, None)
    mappings = clip(space.mappings(), *_whole_pages(start, end, space.page_size))
    query = Query(int(options.required), _anyof(options), int(options.excluded), int(options.returned))
    regions = scan(
        space,
        start=start,
        end=end,
        required_mask=query.required,
        anyof_mask=query.anyof,
        excluded_mask=query.excluded,
        return_mask=query.returned,
        max_pages=options.max_pages,
        untracked="skip",
    )
    tracked = scan(space, start=start, end=end, required_mask=Category.WPALLOWED, return_mask=0)
    return Answer(pid, space.label, space.page_size, query, mappings, regions, tracked)


def _target(options: argparse.Namespace) -> tuple[int, AddressSpace]:
    """The process to look at: its number, and its memory."""
    if options.model is not None:
        from .model_stories import act_out

        process = act_out(options.model)
        return process.pid, cast("AddressSpace", process)
    from ..process.current import current_space
    from ..process.process import Process

    pid = os.getpid() if options.own else options.pid
    return pid, current_space() if pid == os.getpid() else Process(pid).space


def _anyof(options: argparse.Namespace) -> int:
    """The mask as given; for --regions without any mask, what leaves out holes."""
    anyof = int(options.anyof)
    unfiltered = not (anyof or options.required or options.excluded)
    return int(CONTENT) if options.regions and unfiltered and not options.all else anyof


def _whole_pages(start: int | None, end: int | None, page_size: int) -> tuple[int | None, int | None]:
    if start is None or end is None:
        return None, None
    return start // page_size * page_size, -(-end // page_size) * page_size


def explain_untracked(answer: Answer) -> None:
    """Say on stderr of how much WRITTEN, which a mask asks for, could not be asked."""
    if not answer.query.asked & Category.WRITTEN:
        return
    from .by_mapping import bytes_within

    left_out = int((bytes_within(answer.tracked, answer.mappings) == 0).sum())
    if left_out:
        total = format_count(len(answer.mappings), "mapping")
        note(
            f"WRITTEN can be asked only of memory that is tracked: {left_out:,} of {total} of {answer.label} "
            f"{'is' if left_out == 1 else 'are'} not, and left out"
        )


def query_document(query: Query, options: argparse.Namespace) -> dict[str, Any]:
    """The masks and limits as they were used, for the JSON document."""
    from ..query import category_names

    return {
        "required": category_names(query.required),
        "anyof": category_names(query.anyof),
        "excluded": category_names(query.excluded),
        "return": category_names(query.returned),
        "range": [f"{bound:#x}" for bound in options.range] if options.range else None,
        "max_pages": options.max_pages or None,
    }
