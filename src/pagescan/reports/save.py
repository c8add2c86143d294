"""Puts a report into a file: whole or not at all, for its owner only, and over nothing unasked."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from ..errors import AccessDenied, AlreadyExists, InvalidArgument, PagescanError


def check_free(path: str | os.PathLike[str], *, force: bool) -> None:
    """Raises AlreadyExists, or InvalidArgument for a folder, before there is any work to lose."""
    if os.path.isdir(path):
        raise InvalidArgument(f"{path} is a folder, not a file to write to")
    if not force and os.path.lexists(path):
        raise _taken(path)


def save(path: str | os.PathLike[str], *content: bytes | memoryview, force: bool = False) -> None:
    """Writes the content, one part after the other, under a temporary name with mode 0600, then gives it its name.

    Raises:
        AlreadyExists: the name is taken, and ``force`` is not given.
        AccessDenied, InvalidArgument: the folder cannot be written to, or does not exist.
        PagescanError: no space is left.
    """
    check_free(path, force=force)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        _write(temporary, content)
        _give_name(temporary, target, force)
    except OSError as error:
        raise _explained(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, content: tuple[bytes | memoryview, ...]) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())


def _give_name(temporary: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike rename, it fails if the name has been taken meanwhile
    except FileExistsError:
        raise _taken(target) from None
    except PermissionError:
        # A file system without hard links: the check before has to do.
        check_free(target, force=False)
        os.rename(temporary, target)


def _taken(path: str | os.PathLike[str]) -> AlreadyExists:
    return AlreadyExists(f"{path} exists", hint="use another file, or overwrite it with --force", errno=errno.EEXIST)


def _explained(path: Path, error: OSError) -> PagescanError:
    if isinstance(error, PagescanError):
        return error
    number = error.errno
    if number in (errno.ENOENT, errno.ENOTDIR):
        return InvalidArgument(
            f"cannot write {path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}", errno=number
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "give a file in a folder of your own"
        return AccessDenied(f"cannot write {path}: {error.strerror}", hint=hint, errno=number)
    return PagescanError(f"cannot write {path}: {error.strerror}", hint=f"df -h {path.parent}", errno=number)
