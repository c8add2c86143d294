"""Files come whole, for their owner only, and over nothing unasked."""

from __future__ import annotations

import os
import stat

import pytest

from pagescan.errors import AccessDenied, AlreadyExists, InvalidArgument, PagescanError
from pagescan.reports import save as module
from pagescan.reports.save import save


def test_mode_and_content(tmp_path):
    before = os.umask(0)
    try:
        save(tmp_path / "a", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a"]


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(AlreadyExists) as caught:
        save(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert "--force" in str(caught.value.hint)
    save(tmp_path / "a", b"new", force=True)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_name_taken_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "check_free", lambda path, force: (tmp_path / "a").write_bytes(b"other"))
    with pytest.raises(AlreadyExists):
        save(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["a"]


def test_dangling_link_is_not_followed(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        save(tmp_path / "a", b"new")
    assert not (tmp_path / "elsewhere").exists()


def test_no_folder_and_a_folder(tmp_path):
    with pytest.raises(InvalidArgument, match="no folder"):
        save(tmp_path / "none" / "a", b"")
    with pytest.raises(InvalidArgument, match="is a folder"):
        save(tmp_path, b"", force=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AccessDenied):
        save(tmp_path / "a", b"")


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PagescanError, match="No space left"):
        save(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []
