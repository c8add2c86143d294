"""``pagescan snapshot list``, ``show``, ``diff``, ``verify``, ``restore`` and ``prune``: what is done with stores."""

from __future__ import annotations

import fnmatch
import io
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataCorrupt, InvalidArgument
from ..units import format_count, format_size
from .command import ExitCode
from .output import encodable, note, printable, short_size, width_of, write_json
from .progress import bar
from .snapshot import seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..snapshots.store import Store
    from ..snapshots.version import BufferInfo, Version

SCHEMA_VERSION = 1


def list_store(options: argparse.Namespace) -> int:
    """The series and versions of a store."""
    with _open(options) as store:
        found = {name: store.versions(name) for name in _names(store, options)}
    if options.json:
        series = [{"name": name, "versions": list(map(version_document, found[name]))} for name in found]
        write_json("snapshot.list", SCHEMA_VERSION, {"store": store.url, "series": series})
        return ExitCode.DONE
    rows = [
        [name, str(v.number), _time(v.time_ns), str(len(v.buffers)), *_sizes(v), v.note]
        for name, versions in found.items()
        for v in versions
    ]
    _table(["SERIES", "VERSION", "TIME", "BUFFERS", "SIZE", "PAGES WRITTEN", "STORED", "NOTE"], rows, left=(0, 2, 7))
    return ExitCode.DONE


def show_store(options: argparse.Namespace) -> int:
    """The buffers of a version."""
    with _open(options) as store:
        version = _version(store, options)
    if options.json:
        write_json("snapshot.show", SCHEMA_VERSION, {"store": store.url} | version_document(version, buffers=True))
        return ExitCode.DONE
    parent = f"made from version {version.parent}" if version.parent else "made from nothing"
    print(f"version {version.number} of {printable(version.series)}, {_time(version.time_ns)}, {parent}")
    if version.note:
        print(f"note: {printable(version.note)}")
    rows = [
        [str(one.attributes.get("perms", "")), short_size(one.nbytes), _form(one), name]
        for name, one in version.buffers.items()
    ]
    _table(["PERM", "SIZE", "FORM", "BUFFER"], rows, left=(0, 2, 3))
    return ExitCode.DONE


def diff_store(options: argparse.Namespace) -> int:
    """What changed between two versions."""
    with _open(options) as store:
        series = _series(store, options)
        changed = store.diff(series, options.one, options.other)
        known = {v.number: v for v in store.versions(series)}
    both = [known[options.one].buffers, known[options.other].buffers]
    rows = []
    for name, slices in changed.items():
        one, info = both[0].get(name), both[1].get(name) or both[0][name]
        what = "changed" if one and name in both[1] else "new" if name in both[1] else "gone"
        rows.append((name, what, info, [(s.start * _itemsize(info), s.stop * _itemsize(info)) for s in slices]))
    total = sum(end - start for _, _, _, bounds in rows for start, end in bounds)
    if options.json:
        buffers = [
            {"name": name, "what": what, "bytes": sum(e - s for s, e in bounds), "ranges": [list(b) for b in bounds]}
            for name, what, _, bounds in rows
        ]
        content = {"store": store.url, "series": series, "versions": [options.one, options.other]}
        write_json("snapshot.diff", SCHEMA_VERSION, content | {"bytes": total, "buffers": buffers})
        return ExitCode.DONE
    if options.regions:
        lines = [
            [_place(info, s), _place(info, e), short_size(e - s), n] for n, _, info, bounds in rows for s, e in bounds
        ]
        _table(["START", "END", "SIZE", "BUFFER"], lines, left=(0, 1, 3))
    else:
        lines = [
            [what, short_size(sum(e - s for s, e in bounds)), str(len(bounds)), name] for name, what, _, bounds in rows
        ]
        _table(["WHAT", "SIZE", "RUNS", "BUFFER"], lines, left=(0, 3))
    print(f"{format_size(total)} differ between versions {options.one} and {options.other} of {printable(series)}")
    return ExitCode.DONE


def verify_store(options: argparse.Namespace) -> int:
    """Everything read and checked; exit code 6 if something is damaged."""
    with _open(options) as store, bar("verify") as progress:
        found = store.verify(options.series, progress=progress)
    if options.json:
        damage = [{"series": d.series, "version": d.version, "buffer": d.buffer, "what": d.what} for d in found.damage]
        content = {"store": store.url, "versions": found.versions, "packs": found.packs, "bytes": found.nbytes}
        write_json("snapshot.verify", SCHEMA_VERSION, content | {"orphans": found.orphans, "damage": damage})
    else:
        for one in found.damage:
            note(str(one))
        state = format_count(len(found.damage), "damage", "damages") if found.damage else "all is whole"
        versions, packs = format_count(found.versions, "version"), format_count(found.packs, "pack")
        print(f"{versions} in {packs}, {format_size(found.nbytes)} read: {state}")
    return ExitCode.DONE if found else ExitCode.DATA_CORRUPT


def prune_store(options: argparse.Namespace) -> int:
    """Versions forgotten, and what only they needed."""
    if options.keep_last is None and options.keep_every is None:
        raise InvalidArgument("say which versions stay", hint="--keep-last 10, --keep-every 100, or both")
    with _open(options) as store:
        gone = store.prune(
            options.series, keep_last=options.keep_last, keep_every=options.keep_every, grace=seconds(options.grace)
        )
    if options.json:
        content = {"store": store.url, "versions": gone.versions, "packs": gone.packs, "bytes": gone.nbytes}
        write_json("snapshot.prune", SCHEMA_VERSION, content)
        return ExitCode.DONE
    count = sum(map(len, gone.versions.values()))
    packs = format_count(gone.packs, "pack")
    print(f"{format_count(count, 'version')} forgotten, and {packs} of {format_size(gone.nbytes)}")
    return ExitCode.DONE


def restore_store(options: argparse.Namespace) -> int:
    """The buffers of a version as files; what is damaged is left out, and named."""
    folder = Path(options.output)
    with _open(options) as store:
        version = _version(store, options)
        chosen = [name for name in version.buffers if _chosen(name, options.buffer)]
        if not chosen:
            raise InvalidArgument(
                f"version {version.number} of {version.series!r} has no such buffer",
                hint="pagescan snapshot show STORE",
            )
        files = _file_names(version, chosen, raw=options.raw)
        _prepare(folder, [*files.values(), "index.json"], force=options.force)
        damaged = _write_all(store, version, files, folder, options)
    written = {name: file for name, file in files.items() if name not in damaged}
    _write_index(folder, version, written, force=options.force)
    size = sum(version.buffers[name].nbytes for name in written)
    if options.json:
        content = {
            "store": store.url,
            "folder": str(folder),
            "bytes": size,
            "files": written,
            "damaged": sorted(damaged),
        }
        write_json("snapshot.restore", SCHEMA_VERSION, version_document(version) | content)
    else:
        where = f"{printable(str(folder))}, {format_size(size)}"
        print(
            f"version {version.number} of {printable(version.series)}: {format_count(len(written), 'file')} in {where}"
        )
        if "pid" in version.attributes:
            note("these are the contents of a process's memory; they do not make it run again")
    for name, error in damaged.items():
        note(f"left out {printable(name)}: {error.message}")
    return ExitCode.DATA_CORRUPT if damaged else ExitCode.DONE


def _write_all(
    store: Store, version: Version, files: dict[str, str], folder: Path, options: argparse.Namespace
) -> dict[str, DataCorrupt]:
    from ..reports.save import save

    damaged: dict[str, DataCorrupt] = {}
    contents = store.contents(version.series, version)
    total, done = sum(version.buffers[name].nbytes for name in files), 0
    with bar("restore") as progress:
        for name, file in files.items():
            try:
                array = store.array(contents, contents.manifest.buffer(name))
            except DataCorrupt as error:
                damaged[name] = error
            else:
                head = b"" if file.endswith(".bin") else _npy_header(array)
                body = array.reshape(-1).view("u1").data if array.nbytes else b""
                save(folder / file, head, body, force=options.force)
            done += version.buffers[name].nbytes
            progress(done, total)
    return damaged


def _npy_header(array: NDArray[Any]) -> bytes:
    from numpy.lib import format as npy

    head = io.BytesIO()
    npy.write_array_header_2_0(head, npy.header_data_from_array_1_0(array))
    return head.getvalue()


def _prepare(folder: Path, files: Sequence[str], *, force: bool) -> None:
    """The folder, for its owner only, in which none of these names is taken."""
    from ..reports.save import check_free

    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError):
        raise InvalidArgument(f"{folder} cannot be made a folder", hint=f"mkdir -p {folder.parent}") from None
    for file in files:
        check_free(folder / file, force=force)


def _file_names(version: Version, chosen: Sequence[str], *, raw: bool) -> dict[str, str]:
    """A file for each buffer: its name in letters that any system takes, and how it is written."""
    names: dict[str, str] = {}
    for name in chosen:
        one = version.buffers[name]
        plain = raw or (one.dtype == "|u1" and len(one.shape) == 1)
        # Of a mapping of a file the path would be too much.
        stem = (
            f"{one.attributes['start']} {name.rpartition('/')[2]}"
            if "start" in one.attributes and "/" in name
            else name
        )
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._")[:150] or "buffer"
        end = ".bin" if plain else ".npy"
        file, more = stem + end, 1
        while file in names.values() or file == "index.json":
            more += 1
            file = f"{stem}-{more}{end}"
        names[name] = file
    return names


def _write_index(folder: Path, version: Version, files: dict[str, str], *, force: bool) -> None:
    from ..reports.save import save

    buffers = [{"file": file, "name": name} | _buffer_document(version.buffers[name]) for name, file in files.items()]
    document = {"schema": "pagescan.snapshot.index", "version": SCHEMA_VERSION, "of": version_document(version)}
    save(folder / "index.json", json.dumps(document | {"buffers": buffers}, indent=2).encode() + b"\n", force=force)


# --- what is meant ---------------------------------------------------------------------------------------------------


def _open(options: argparse.Namespace) -> Store:
    from ..snapshots.store import open_store

    return open_store(options.store, create=False)


def _names(store: Store, options: argparse.Namespace) -> list[str]:
    return [options.series] if options.series else store.names()


def _series(store: Store, options: argparse.Namespace) -> str:
    """The series that is named, or the only one there is."""
    names = _names(store, options)
    if len(names) != 1:
        has = ", ".join(names) or "none"
        raise InvalidArgument(
            f"{store.url} has {format_count(len(names), 'series', 'series')}: {has}", hint="--series NAME"
        )
    return names[0]


def _version(store: Store, options: argparse.Namespace) -> Version:
    versions = store.versions(_series(store, options))
    if options.version is None:
        return versions[-1]
    found = next((one for one in versions if one.number == options.version), None)
    if found is None:
        store.contents(versions[0].series, options.version)  # raises NoSuchVersion, in the store's own words
    assert found is not None
    return found


def _chosen(name: str, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


# --- how it is shown -------------------------------------------------------------------------------------------------


def version_document(version: Version, *, buffers: bool = False) -> dict[str, Any]:
    """A version as ``--json`` has it."""
    document = {
        "series": version.series,
        "number": version.number,
        "parent": version.parent,
        "time_ns": version.time_ns,
        "note": version.note,
        "bytes": version.nbytes,
        "buffer_count": len(version.buffers),
        "written_pages": version.written_pages,
        "written_bytes": version.written_bytes,
        "packs": version.packs,
        "attributes": version.attributes,
    }
    if buffers:
        document["buffers"] = [{"name": name} | _buffer_document(one) for name, one in version.buffers.items()]
    return document


def _buffer_document(one: BufferInfo) -> dict[str, Any]:
    return {"dtype": one.dtype, "shape": list(one.shape), "bytes": one.nbytes, "attributes": one.attributes}


def _form(one: BufferInfo) -> str:
    dtype = one.dtype if isinstance(one.dtype, str) else "records"
    return "bytes" if (dtype, len(one.shape)) == ("|u1", 1) else f"{dtype} {'x'.join(map(str, one.shape))}".strip()


def _itemsize(one: BufferInfo) -> int:
    count = 1
    for length in one.shape:
        count *= length
    return one.nbytes // count if count else 1


def _sizes(version: Version) -> tuple[str, str, str]:
    return short_size(version.nbytes), f"{version.written_pages:,}", short_size(version.written_bytes)


def _place(one: BufferInfo, offset: int) -> str:
    """An address in the process, or an offset in the buffer."""
    start = one.attributes.get("start")
    return f"{int(start, 16) + offset:#x}" if isinstance(start, str) else f"+{offset:#x}"


def _time(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(nanoseconds // 10**9))


def _table(head: list[str], rows: list[list[str]], left: tuple[int, ...]) -> None:
    from ..reports.words import columns

    safe = [[printable(cell) for cell in row] for row in rows]
    for line in columns(head, safe, width_of(sys.stdout), left=left):
        print(encodable(line.rstrip()))
