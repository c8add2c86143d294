"""Where in a program's text there already is an instruction that enters the kernel. Memory is only read.

Nothing is written to the text of another program: any ``syscall`` will do, wherever it stands. For the form that
survives the tracer's death (:mod:`.sigframe`) it must be followed by ``ret``, and ``rt_sigreturn``'s own caller must be
there, which every libc that delivers signals has (glibc ``__restore_rt``, musl ``__restore_rt``).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .procfs import list_mappings, open_process_file

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from ..abi import Mapping
    from .registers import Layout

_RETURNING = b"\x0f\x05\xc3"  # syscall; ret
_RESTORERS = (b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05")  # mov $15, %rax or %eax; syscall
_CHUNK = 4 << 20
_OVERLAP = 16
_LIBC = re.compile(r"/(libc[.-]|ld-musl)[^/]*$")
_LOADER = re.compile(r"/ld-[^/]*$")


@dataclass(frozen=True, slots=True)
class Gadgets:
    """Addresses of instructions in a process.

    Attributes:
        call: an instruction that enters the kernel, or None; ``returning``, if there is one.
        returning: one that ``ret`` follows (x86-64), or None.
        restorer: the instructions that call ``rt_sigreturn`` (x86-64), or None.
        texts: the bytes found at each address, by which to tell later that they are still there.
    """

    call: int | None = None
    returning: int | None = None
    restorer: int | None = None
    texts: tuple[tuple[int, bytes], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether they allow the form that survives the tracer's death."""
        return self.returning is not None and self.restorer is not None

    def seen(self, name: str, address: int, text: bytes) -> Gadgets:
        """The same and one more."""
        if name == "returning":  # it does what any other does: so there is one place less to look at later
            texts = tuple(one for one in self.texts if one[0] != self.call)
            return replace(self, call=address, returning=address, texts=(*texts, (address, text)))
        return replace(self, **{name: address}, texts=(*self.texts, (address, text)))


def find_gadgets(pid: int, layout: Layout) -> Gadgets:
    """The first of each in libc, the vdso, the loader, or any other text. Raises NoSuchProcess, AccessDenied."""
    found = Gadgets()
    with open_process_file(pid, "mem") as memory:
        for mapping in sorted(filter(_is_text, list_mappings(pid)), key=_preference):
            for start, text in _chunks(memory, mapping):
                found = _look(found, start, text, layout)
                if found.complete or (layout.name != "x86_64" and found.call is not None):
                    return found
    return found


def _is_text(mapping: Mapping) -> bool:
    return mapping.perms[0] == "r" and mapping.perms[2] == "x" and mapping.name != "[vsyscall]"


def _preference(mapping: Mapping) -> int:
    if _LIBC.search(mapping.name):
        return 0
    if mapping.name == "[vdso]":
        return 1
    return 2 if _LOADER.search(mapping.name) else 3


def _chunks(memory: io.FileIO, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
    for start in range(mapping.start, mapping.end, _CHUNK):
        size = min(mapping.end - start, _CHUNK + _OVERLAP)
        try:
            text = os.pread(memory.fileno(), size, start)
        except (OSError, OverflowError):
            return  # unmapped since, or memory of a device
        yield start, text


def _look(found: Gadgets, start: int, text: bytes, layout: Layout) -> Gadgets:
    wanted = [("call", layout.instruction)]
    if layout.name == "x86_64":
        wanted += [("returning", _RETURNING)] + [("restorer", pattern) for pattern in _RESTORERS]
    for name, pattern in wanted:
        if getattr(found, name) is None and (at := _find(text, pattern, start, layout.alignment)) is not None:
            found = found.seen(name, start + at, pattern)
    return found


def _find(text: bytes, pattern: bytes, start: int, alignment: int) -> int | None:
    at = text.find(pattern)
    while at >= 0 and (start + at) % alignment:
        at = text.find(pattern, at + 1)
    return at if at >= 0 else None
