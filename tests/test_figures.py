"""The figures of the documentation: drawn again from the model, they are the ones that are committed."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["files", "fork", "huge", "memory", "page-table", "tracking"]

pytestmark = pytest.mark.skipif(not FIGURES.exists(), reason="the tests were copied out of the checkout")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all figures, drawn now."""
    folder = tmp_path_factory.mktemp("figures")
    command = [sys.executable, str(ROOT / "scripts" / "drawings.py"), "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def test_these_are_all(drawn):
    assert sorted(path.stem for path in drawn.iterdir()) == NAMES
    assert sorted(path.stem for path in FIGURES.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_drawn_again_it_is_the_same(drawn, name):
    """After a change of the model or of the stories: scripts/figures, look at what it drew, and commit that."""
    assert (drawn / f"{name}.svg").read_bytes() == (FIGURES / f"{name}.svg").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_text_stays_within_the_picture(name):
    root = ET.parse(FIGURES / f"{name}.svg").getroot()
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    texts = root.findall(f"{SVG}text")
    assert texts
    for text in texts:
        assert 0 <= int(text.attrib["x"]) <= width
        assert 0 < int(text.attrib["y"]) < height
        assert text.text
    for box in root.findall(f"{SVG}rect"):
        assert int(box.attrib["x"]) + int(box.attrib["width"]) <= width
        assert int(box.attrib["y"]) + int(box.attrib["height"]) <= height


@pytest.mark.parametrize("name", NAMES)
def test_it_says_in_words_what_it_shows(name):
    root = ET.parse(FIGURES / f"{name}.svg").getroot()
    assert root.attrib["role"] == "img"
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")


def test_the_tutorial_shows_each_with_words_for_it():
    text = (ROOT / "docs" / "tutorial.md").read_text()
    shown = re.findall(r"!\[([^\]]+)\]\(figures/([\w-]+)\.svg\)", text)
    assert sorted(name for _, name in shown) == NAMES


def test_tracking_shows_the_bits_of_the_model(drawn):
    """The letters in the film are those of the page table after each step."""
    root = ET.parse(drawn / "tracking.svg").getroot()
    found = [text.text for text in root.findall(f"{SVG}text") if text.attrib.get("class") == "mid bit"]
    # register, protect, read-marker, write, take; and the legend
    rows = ["WWWWWWWW", "########", "########", "##W##W##", "########"]
    assert "".join(str(letter) for letter in found) == "".join(rows) + "#W"
