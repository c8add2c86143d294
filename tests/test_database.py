"""A file's name as SQLite takes it."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from pagescan.database import file_uri


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (PurePosixPath("/srv/a b/r"), "file:///srv/a b/r?mode=ro"),
        (PurePosixPath("/a?mode=rw#x%41&y=1"), "file:///a%3fmode=rw%23x%2541&y=1?mode=ro"),
        (PurePosixPath("//srv/r"), "file:////srv/r?mode=ro"),
        (PureWindowsPath("C:\\Users\\me\\50%.p"), "file:///C:/Users/me/50%25.p?mode=ro"),
        (PureWindowsPath("\\\\server\\share\\r"), "file:////server/share/r?mode=ro"),
    ],
)
def test_sqlites_own_rules(path, wanted):
    assert file_uri(path, "mode=ro") == wanted


@pytest.mark.parametrize(
    "name",
    ["plain", "a b", "a?mode=memory", "a#b", "%41", "%", "%%zz", "a&cache=shared", "\N{SNOWMAN}", "a\udcffb", "+"],
)
def test_the_file_of_that_name_is_the_one_that_is_opened(tmp_path: Path, name):
    path = tmp_path / f"{name}d" / name
    path.parent.mkdir()
    path.touch()
    with contextlib.closing(sqlite3.connect(file_uri(path, "mode=rw"), uri=True)) as connection:
        connection.execute("CREATE TABLE x (y)")
    assert path.read_bytes().startswith(b"SQLite format 3\0")
    assert list(path.parent.iterdir()) == [path]
    read_only = contextlib.closing(sqlite3.connect(file_uri(path, "mode=ro"), uri=True))
    with read_only as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("CREATE TABLE z (y)")


def test_a_name_costs_no_import():
    code = "import sys, pathlib, pagescan.database as d; d.file_uri(pathlib.Path('/a?'), ''); "
    code += "print([name for name in sys.modules if name.startswith('urllib.request')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
