"""Files: writing to the disk is begun, and waited for by whoever wants to be sure."""

from __future__ import annotations

import os

from pagescan.kernel.files import start_writing


def test_writing_is_begun_and_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    with path.open("rb") as file:
        start_writing(file.fileno())
    assert path.read_bytes() == b"x" * 100_000


def test_what_cannot_be_written_is_no_error():
    reading, writing = os.pipe()
    start_writing(writing)
    os.close(reading)
    os.close(writing)
    start_writing(writing)
