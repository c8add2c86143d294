"""The examples of README.md and docs/*.md: each is run, and what it prints compared with what the page shows.

An example is a fence of ```` ```python ```` that holds a ``>>>`` session. The sessions under one ``##`` heading share
their names and run in order: one test. A comment ``<!-- needs: WP_ASYNC -->`` before a fence makes the whole section
skip, by that name, where the kernel cannot do it. There are no other Python fences: an example that is not run
would go stale unseen.
"""

from __future__ import annotations

import doctest
import importlib.util
import itertools
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pagescan
from pagescan.query import Category

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")) if path.exists())
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"<!-- needs: ([\w, ]+) -->")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Section(NamedTuple):
    """What lies between two ``##`` headings of a page."""

    page: Path
    line: int
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.title}"


def sections(page: Path) -> Iterator[Section]:
    text = page.read_text()
    starts = [0, *(match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)), len(text)]
    for start, end in itertools.pairwise(starts):
        part = text[start:end]
        title = part.split("\n", 1)[0].lstrip("# ")
        yield Section(page, text.count("\n", 0, start), title, part)


def session(text: str) -> str:
    """The text with everything but its examples blanked out, so that line numbers stay those of the page."""
    kept, position = [], 0
    for match in FENCE.finditer(text):
        kept += [blank(text[position : match.start(1)]), match[1]]
        position = match.end(1)
    return "".join(kept) + blank(text[position:])


def blank(text: str) -> str:
    return "\n" * text.count("\n")


def can_scan() -> None:
    pagescan.scan(bytearray(1), return_mask=Category.PRESENT)


def can_track() -> None:
    pagescan.track(pagescan.zeros(1)).close()


def has_small_pages() -> None:
    if mmap.PAGESIZE != 4096:
        raise pagescan.KernelCannot(f"pages have {mmap.PAGESIZE} bytes here")


def has_joblib() -> None:
    if not importlib.util.find_spec("joblib"):
        raise pagescan.KernelCannot("joblib is not installed (it is in the group bench)")


def has_obstore() -> None:
    pagescan.open_store("memory://").close()


#: What a section may need: a proof that raises one of REFUSALS where it cannot be had.
PROOFS: dict[str, Callable[[], None]] = {
    "PAGEMAP_SCAN": can_scan,
    "WP_ASYNC": can_track,
    "4K_PAGES": has_small_pages,
    "JOBLIB": has_joblib,
    "OBSTORE": has_obstore,
}

REFUSALS = (pagescan.KernelCannot, pagescan.AccessDenied, pagescan.MissingExtra)


def skip_unless(need: str) -> None:
    try:
        PROOFS[need]()
    except REFUSALS as error:
        pytest.skip(f"needs {need}: {error.message}")


EXAMPLES = [section for page in PAGES for section in sections(page) if ">>>" in session(section.text)]


@pytest.mark.skipif(not PAGES, reason="the tests were copied out of the checkout")
class TestExamples:
    @pytest.mark.parametrize("section", EXAMPLES, ids=str)
    def test_prints_what_the_page_shows(self, section: Section):
        for need in {word.strip() for found in NEEDS.findall(section.text) for word in found.split(",")}:
            skip_unless(need)
        name = str(section)
        test = doctest.DocTestParser().get_doctest(session(section.text), {}, name, str(section.page), section.line)
        report: list[str] = []
        result = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=report.append)
        assert result.attempted > 0
        assert result.failed == 0, "\n" + "".join(report)

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_page_has_no_example_that_is_not_run(self, page: Path):
        fences = [match[1] for match in FENCE.finditer(page.read_text())]
        assert [fence for fence in fences if not fence.lstrip().startswith(">>>")] == []

    def test_guide_and_library_have_examples(self):
        assert {"pagemap-scan.md", "library.md"} <= {section.page.name for section in EXAMPLES}


def test_session_keeps_line_numbers_and_drops_prose():
    text = "prose >>> no\n```python\n>>> 1 + 1\n2\n```\n```text\n>>> not run\n```\n"
    assert session(text) == "\n\n>>> 1 + 1\n2\n\n\n\n\n"


def test_wrong_output_is_found():
    text = session("```python\n>>> 1 + 1\n3\n```\n")
    test = doctest.DocTestParser().get_doctest(text, {}, "wrong", None, 0)
    report: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed == 1
