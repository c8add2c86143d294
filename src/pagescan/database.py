"""How recordings and stores name an SQLite file to SQLite, which takes options only with a URI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import PurePath


def file_uri(path: PurePath, options: str) -> str:
    """An absolute path as SQLite's URI, with options such as ``mode=ro``.

    Any name goes, also one that is no UTF-8: only what SQLite itself reads as more than a letter is written in another
    way (https://www.sqlite.org/uri.html, "The URI Path"). ``Path.as_uri`` is not used: from Python 3.14 on it imports
    ``urllib.request``, which takes long, and it writes a Windows share in a form that SQLite refuses.
    """
    name = path.as_posix()
    for letter in "%?#":
        name = name.replace(letter, f"%{ord(letter):02x}")
    # A drive (C:/...) has no slash before it.
    return f"file://{'' if name.startswith('/') else '/'}{name}?{options}"
