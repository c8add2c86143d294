"""A program that lets itself be tracked: it hands over its own userfaultfd, so nobody has to trace it.

The program listens on a Unix socket; to whoever connects it sends a new userfaultfd (SCM_RIGHTS, unix(7)). Whose memory
that is, the kernel says: it notes the sender of the very message (SCM_CREDENTIALS). No permission to trace is needed
for this. Looking at the pages takes PTRACE_MODE_READ as ever, and reading them PTRACE_MODE_ATTACH.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

from ..abi import TRACKING_FEATURES
from ..errors import AccessDenied, InvalidArgument, NoSuchProcess, PagescanError
from ..kernel.procfs import sudo_command
from ..kernel.userfaultfd import open_userfaultfd
from .attach import Adopted

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds either side waits for the other.
TIMEOUT = 5.0
_MESSAGE = struct.Struct("=8sQ")  # mark, the features of the handshake
_MARK = b"pagescn1"
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def send_userfaultfd(connection: socket.socket, features: int = TRACKING_FEATURES) -> None:
    """Make a userfaultfd of this process and send it. Raises as :func:`.userfaultfd.open_userfaultfd`; OSError."""
    with open_userfaultfd(features) as opened:
        socket.send_fds(connection, [_MESSAGE.pack(_MARK, opened.features)], [opened.fileno()])


def receive_userfaultfd(connection: socket.socket) -> Adopted:
    """The userfaultfd of the process at the other end, that it sends with :func:`send_userfaultfd`.

    For the kernel to name the sender, SO_PASSCRED has to be set before it sends; else the process that made the other
    end is taken (SO_PEERCRED).

    Raises InvalidArgument: what came is not that; NoSuchProcess: the sender is in a pid namespace not seen from here;
    TimeoutError, OSError.
    """
    room = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(_CREDENTIALS.size)
    data, ancillary, _, _ = connection.recvmsg(_MESSAGE.size, room, socket.MSG_CMSG_CLOEXEC)
    descriptors: array.array[int] = array.array("i")
    pid = _peer(connection)
    for level, kind, payload in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
        elif kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(payload)[0]
    try:
        return _adopted(data, list(descriptors), pid)
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def _peer(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


def _adopted(data: bytes, descriptors: list[int], pid: int) -> Adopted:
    if len(data) != _MESSAGE.size or not data.startswith(_MARK):
        raise InvalidArgument("what is at the other end of the socket does not share its memory with pagescan")
    if len(descriptors) != 1 or os.readlink(f"/proc/self/fd/{descriptors[0]}") != "anon_inode:[userfaultfd]":
        raise InvalidArgument("the program at the other end of the socket sent no userfaultfd")
    if pid <= 0:
        raise NoSuchProcess(
            "the program that shares its memory is in a pid namespace that is not seen from here",
            hint="run pagescan in the same container, or on the host",
        )
    return Adopted(descriptors[0], pid, features=_MESSAGE.unpack(data)[1])


def connect(path: str, timeout: float = TIMEOUT) -> Adopted:
    """The userfaultfd of the program that shares itself at ``path`` (a file, or ``\\0name``).

    Raises NoSuchProcess: nobody listens there; AccessDenied; as :func:`receive_userfaultfd`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            connection.connect(path)
            return receive_userfaultfd(connection)
        except PagescanError:
            raise
        except OSError as error:
            raise _explain(error, path) from error


def _explain(error: OSError, path: str) -> Exception:
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(f"the socket {path!r} is another user's", hint=sudo_command(), errno=error.errno)
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        return NoSuchProcess(
            f"no program shares its memory at {path!r}", hint="it has to call pagescan.share()", errno=error.errno
        )
    if isinstance(error, TimeoutError):
        return NoSuchProcess(f"the program that listens at {path!r} does not answer", errno=errno.ETIMEDOUT)
    return error


class Sharing:
    """This process lets itself be tracked by whoever may connect to a socket. A context manager.

    A thread answers each connection with a new userfaultfd. Who holds one can protect pages and learn which are
    written, nothing else; in asynchronous mode it cannot make this program wait. A forked child does not answer.

    Attributes:
        path: the socket's file (mode 0600), or ``\\0name`` for an abstract one, which every user may connect to.
        failure: why the last connection got none, or None.
    """

    path: str
    failure: Exception | None

    def __init__(self, path: str, *, make: Callable[[socket.socket], None] = send_userfaultfd):
        """Raises InvalidArgument: the path is taken or no place for a socket; as ``open_userfaultfd``."""
        open_userfaultfd(TRACKING_FEATURES).close()  # what cannot work is said here, not in the thread
        self.path, self.failure, self._make = path, None, make
        self._pid = os.getpid()
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(path)
            if not path.startswith("\0"):
                os.chmod(path, 0o600)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            hint = f"rm {path}" if error.errno == errno.EADDRINUSE else None
            raise InvalidArgument(f"cannot listen at {path!r}: {error}", hint=hint, errno=error.errno) from error
        self._thread = threading.Thread(target=self._serve, name="pagescan-share", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    connection.settimeout(TIMEOUT)
                    self._make(connection)
                    connection.recv(1)  # ends when the other side has taken it and closes
                except (OSError, PagescanError) as error:
                    self.failure = error

    def close(self) -> None:
        """Stop sharing; what was handed over stays with those who have it. Again: nothing happens."""
        if self._listener.fileno() < 0:
            return
        if os.getpid() != self._pid:  # a forked child: the socket is the parent's
            self._listener.close()
            return
        if not self.path.startswith("\0"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(TIMEOUT)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def share(path: str) -> Sharing:
    """Let this process be tracked by whoever may connect to the socket ``path``; see :class:`Sharing`."""
    return Sharing(path)
