"""The fixture ``assert_unwritten``, in runs of pytest of their own."""

from __future__ import annotations

import importlib.metadata
import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import tracking as tracking

pytest_plugins = "pytester"

DOCS = Path(__file__).parent.parent / "docs/pytest.md"
PAGE = mmap.PAGESIZE
BEGIN = """
import mmap
import numpy as np
import pagescan
import pytest
PAGE = mmap.PAGESIZE

@pytest.fixture
def array():
    return pagescan.zeros((4, PAGE), np.uint8)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, tracking: None, monkeypatch: pytest.MonkeyPatch):
    """``run(source)`` runs the tests of `source` with the plugin, whether the entry point is installed or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def call(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        return pytester.runpytest_subprocess("-p", "pagescan.pytest_plugin", *arguments)

    return call


def test_what_passes(run):
    run(
        BEGIN
        + """
def test_reading(array, assert_unwritten):
    assert_unwritten(array)
    assert array.sum() == 0

def test_other_memory(array, assert_unwritten):
    with assert_unwritten(array):
        (array + 1)[:] = 2

def test_before_and_after(array, assert_unwritten):
    array[0] = 1
    with assert_unwritten(array):
        pass
    array[0] = 2

def test_a_neighbour_in_the_same_page(array, assert_unwritten):
    flat = array.reshape(-1)
    with assert_unwritten(flat[10:20], flat[PAGE // 2 : 2 * PAGE]):
        flat[0:10] = flat[20:30] = flat[2 * PAGE :] = 1

def test_small_arrays(assert_unwritten):
    left, right = np.zeros(3), np.zeros(3)
    assert_unwritten(left)
    right[:] = 1

def test_that_does_not_use_it(array):
    array[:] = 1

@pytest.mark.parametrize("buffer", [bytearray(3 * PAGE), memoryview(bytearray(10)), mmap.mmap(-1, PAGE)])
def test_other_buffers(buffer, assert_unwritten):
    assert_unwritten(buffer)
    assert buffer[3] == 0
"""
    ).assert_outcomes(passed=9)


def test_what_fails(run):
    result = run(
        BEGIN
        + """
def test_until_the_end(array, assert_unwritten):
    assert_unwritten(array)
    array[2, 7] = 1

def test_within(array, assert_unwritten):
    with assert_unwritten(weights=array):
        array[3, 0] = array[0, 0] = 1
    raise AssertionError("never reached")

def test_asked_before_the_end(array, assert_unwritten):
    armed = assert_unwritten(array)
    armed.check()
    array[1] = 1
    armed.check()
    raise AssertionError("never reached")

def test_the_second_of_two(array, assert_unwritten):
    other = pagescan.zeros(3 * PAGE, np.uint8)
    assert_unwritten(array)
    assert_unwritten(other)
    other[PAGE] = 1

def test_a_small_array_to_the_element(assert_unwritten):
    small = np.zeros(10, np.int32)
    assert_unwritten(small)
    small[3] = small[4] = small[8] = 1

class TestOfUnittest(__import__("unittest").TestCase):
    @pytest.fixture(autouse=True)
    def arm(self, array, assert_unwritten):
        self.array = array
        assert_unwritten(array)

    def test_it(self):
        self.array[:] = 1
"""
    )
    result.assert_outcomes(failed=6)
    text = result.stdout.str()
    assert "never reached" not in re.sub(r'^.*raise AssertionError\("never reached"\).*$', "", text, flags=re.MULTILINE)
    assert f"argument 1 (ndarray of uint8, shape (4, {PAGE})): elements [{2 * PAGE}:{3 * PAGE}]" in text
    assert f"weights (ndarray of uint8, shape (4, {PAGE})): elements [0:{PAGE}], [{3 * PAGE}:" in text
    assert f"argument 1 (ndarray of uint8, shape ({3 * PAGE},)): elements [{PAGE}:{2 * PAGE}]" in text
    assert "argument 1 (ndarray of int32, shape (10,)): elements [3:5], [8:9]" in text
    assert f"A slice is as wide as its pages, of {PAGE:,} bytes" in text
    assert "pytest_plugin.py" not in text, "the plugin's own frames are shown"


def test_an_error_of_the_test_stays_the_error(run):
    result = run(
        BEGIN
        + """
def test_within(array, assert_unwritten):
    with assert_unwritten(array):
        array[0] = 1
        raise KeyError("mine")

def test_until_the_end(array, assert_unwritten):
    assert_unwritten(array)
    array[0] = 1
    raise KeyError("mine")
"""
    )
    result.assert_outcomes(failed=2)
    assert "must not be written" not in result.stdout.str()


def test_wrong_use_says_what_is_wrong(run):
    result = run(
        BEGIN
        + """
def test_nothing_given(assert_unwritten):
    assert_unwritten()

def test_no_buffer(assert_unwritten):
    assert_unwritten({})
"""
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*InvalidArgument: assert_unwritten() was given nothing to watch*"])
    result.stdout.fnmatch_lines(["*NotABuffer: dict has no memory*"])


def test_without_write_tracking_contents_are_compared(run, monkeypatch):
    monkeypatch.setenv("PAGESCAN_ENGINE", "compare")
    result = run(
        BEGIN
        + """
def test_fails(array, assert_unwritten):
    assert_unwritten(array)
    array[2, 7] = 1

def test_passes(array, assert_unwritten):
    assert_unwritten(array)
    array[2, 7] = 0
"""
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"*elements [[]{2 * PAGE}:{3 * PAGE}[]]", "*bytes: contents were compared."])


def test_many_slices_are_cut_short(run):
    result = run(
        BEGIN
        + """
def test_every_other_page(assert_unwritten):
    array = pagescan.zeros(40 * PAGE, np.uint8)
    assert_unwritten(array)
    array[:: 2 * PAGE] = 1
"""
    )
    result.stdout.fnmatch_lines([f"*: elements [[]0:{PAGE}[]], *[[]{14 * PAGE}:{15 * PAGE}[]] and 12 more ranges"])


@pytest.mark.skipif(not DOCS.exists(), reason="the tests were copied out of the checkout")
@pytest.mark.skipif(PAGE != 4096, reason="the page shows pages of 4096 bytes")
def test_the_documentation_shows_what_its_example_prints(run):
    (shown,) = re.findall(r"```console\n\$ pytest .*?\n(.*?)```", DOCS.read_text(), re.DOTALL)
    printed = run((DOCS.parent.parent / "examples/test_unwritten.py").read_text()).stdout.str()
    lines = [line for line in shown.splitlines() if re.match(r"E|>|  \w|Elements|memory", line)]
    assert len(lines) > 6
    assert [line for line in lines if line not in printed] == []


def test_help_names_the_fixture(run):
    run("", "--fixtures").stdout.fnmatch_lines(["assert_unwritten*", "*Fail the test if it writes to these arrays*"])


def test_unused_it_imports_nothing():
    code = (
        "import sys, pytest, pagescan.pytest_plugin; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'numpy', 'ctypes', 'mmap'}), "
        "*sorted(name for name in sys.modules if name.startswith('pagescan')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    loaded = subprocess.run(
        [sys.executable, "-c", code.replace(", pagescan.pytest_plugin", "")], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == loaded.stdout.strip() + " pagescan pagescan.pytest_plugin"


def test_entry_point_leads_to_the_plugin():
    found = [one for one in importlib.metadata.entry_points(group="pytest11") if one.name == "pagescan"]
    if not found:
        pytest.skip("the installed metadata are older than the plugin, or pagescan is only on the path")
    assert found[0].load().__name__ == "pagescan.pytest_plugin"
