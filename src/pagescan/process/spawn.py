"""A program started with its userfaultfd already taken: it stands before its first instruction until it is let go.

A helper (this Python, without site-packages) waits on a pipe until it is traced, and then becomes the program. The
tracer stops it right after exec, on its way to user mode, and takes the userfaultfd there. The program inherits the
standard streams, the working directory and the environment it is given; the helper leaves no descriptor behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from ..errors import AccessDenied, Closed, InvalidArgument, KernelCannot, NoSuchProcess, PagescanError
from ..kernel import memory, ptrace, remote
from ..kernel.procfs import open_process_file, sudo_command
from ..kernel.ptrace import Tracee
from .attach import Adopted, TracedSpace, look, take
from .permission import Permission, check_attach, elf_class, explain_seize, thirty_two_bit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds the helper and the kernel may take until the program is there.
START_TIMEOUT = 30.0
_OPTIONS = ptrace.PTRACE_O_TRACESYSGOOD | ptrace.PTRACE_O_TRACEEXEC | ptrace.PTRACE_O_EXITKILL

# What the helper does: read its orders to the end of the pipe, undo what Python's start changed (signal(7): ignored
# signals stay ignored across exec), execute. A failure goes up the other pipe as an errno.
_HELPER = """
import json, os, signal, sys
orders, failure = int(sys.argv[1]), int(sys.argv[2])
os.write(failure, b"+")
with open(orders, "rb") as file:
    order = json.loads(file.read() or b"null")
if order is None:
    os._exit(127)
def bring(text):
    return text.encode("latin-1")
for name in ("SIGPIPE", "SIGXFSZ"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
os.set_inheritable(failure, False)
try:
    environment = {bring(key): bring(value) for key, value in order["environment"]}
    os.execve(bring(order["program"]), [bring(word) for word in order["argv"]], environment)
except OSError as error:
    os.write(failure, str(error.errno).encode())
os._exit(127)
"""


class Spawned:
    """A program that was started, and stands still before its first instruction until :meth:`start`.

    A context manager: leaving it by an exception before :meth:`start` kills the program. Should this process die
    before, the program dies with it; it has done nothing yet.

    Attributes:
        popen: the process as :mod:`subprocess` knows it. Do not wait for or poll it before :meth:`start`.
        adopted: its userfaultfd.
        space: its memory; its first ``open_userfaultfd`` gives that one.
    """

    popen: subprocess.Popen[Any]
    adopted: Adopted
    space: TracedSpace

    def __init__(self, launch: _Launch):
        self._launch = launch
        assert launch.popen is not None and launch.adopted is not None, "it has come that far"
        self.popen, self.adopted = launch.popen, launch.adopted
        self.space = TracedSpace(self.popen.pid, ready=self.adopted)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def started(self) -> bool:
        """Whether it was let go."""
        return self._launch.go.is_set()

    def start(self) -> None:
        """Let the program run. Again: nothing happens. Raises Closed after :meth:`kill`."""
        if self._launch.killed:
            raise Closed(f"process {self.pid} was killed before its start", pid=self.pid)
        self._launch.release()

    def kill(self) -> None:
        """Kill the program, whether it runs or not, and wait for its end."""
        self._launch.killed = not self.started
        self._launch.release(kill=True)
        self.popen.kill()
        self.popen.wait()
        self.space.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self.started:
            self.kill()


def spawn_stopped(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
) -> Spawned:
    """Start a program, stopped right after exec, with its userfaultfd taken.

    Args:
        argv: the program, looked up in PATH, and its arguments.
        env, cwd, stdin, stdout, stderr: as for :class:`subprocess.Popen`; None means this process's own.

    Raises InvalidArgument: there is no such program, or it cannot be executed; AccessDenied: a setuid program, which
    the kernel would run without its privileges (execve(2)); else as :func:`.attach.take_userfaultfd`.
    """
    if not argv:
        raise InvalidArgument("nothing to spawn: argv is empty")
    words = [os.fspath(word) for word in argv]
    environment = dict(os.environ if env is None else env)
    program = find_program(words[0], environment, cwd)
    order = {
        "program": _plain(program),
        "argv": [_plain(word) for word in words],
        "environment": [(_plain(key), _plain(value)) for key, value in environment.items()],
    }
    launch = _Launch(order, {"cwd": cwd, "stdin": stdin, "stdout": stdout, "stderr": stderr})
    launch.run()
    return Spawned(launch)


def find_program(name: str, environment: Mapping[str, str], cwd: str | os.PathLike[str] | None) -> str:
    """The file that ``name`` is, for a process with this PATH and working directory.

    Raises InvalidArgument, AccessDenied.
    """
    found = name if os.sep in name else shutil.which(name, path=environment.get("PATH", os.defpath))
    path = os.path.join(cwd or ".", found or "")
    if found is None or not os.path.exists(path):
        raise InvalidArgument(f"there is no program {name!r}", hint=f"which {name}", errno=errno.ENOENT)
    mode = os.stat(path).st_mode
    if os.geteuid() != 0 and mode & (stat.S_ISUID | stat.S_ISGID):
        raise AccessDenied(
            f"{path} is a setuid or setgid program: traced by an ordinary user it would run without its privileges",
            hint=sudo_command(),
            errno=errno.EPERM,
        )
    return found


def _plain(text: str | bytes) -> str:
    """The bytes of a name as characters, so that JSON carries any."""
    return os.fsencode(text).decode("latin-1")


class _Launch:
    """The start of one program, in a thread that traces it until it is let go."""

    def __init__(self, order: dict[str, Any], streams: dict[str, Any]):
        self.popen: subprocess.Popen[Any] | None = None
        self.adopted: Adopted | None = None
        self.go = threading.Event()
        self.killed = False
        self._order = json.dumps(order).encode()
        self._streams = streams
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._permission: Permission | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._trace, name="pagescan-spawn", daemon=True)

    def run(self) -> None:
        """Return when the program stands ready. Raises what went wrong; then nothing is left of it."""
        self._thread.start()
        try:
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.release(kill=True)
            self._discard()
            raise

    def release(self, *, kill: bool = False) -> None:
        """Let the tracing thread end: the program runs, or is killed first."""
        if kill and self.popen is not None and not self.go.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.popen.pid, signal.SIGKILL)
        self.go.set()
        self._thread.join()

    def _discard(self) -> None:
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
        if self.adopted is not None:
            os.close(self.adopted.fd)

    # In the tracing thread --------------------------------------------------------------------------------------------

    def _trace(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            tracee = self._start_helper()
            calls = self._take(tracee)
            calls.close()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self._failure = error
            self._ready.set()
            return  # with this thread's end the helper dies (EXITKILL)
        self._ready.set()
        self.go.wait()
        with contextlib.suppress(ProcessLookupError):
            tracee.detach()

    def _start_helper(self) -> Tracee:
        """The program in an interrupt stop, before its first instruction."""
        orders, give = os.pipe2(os.O_CLOEXEC)
        failure, tell = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self.popen = self._popen(orders, tell)
            finally:
                os.close(orders)
                os.close(tell)
            # Only now is it dumpable for sure: a child of a process that changed its user is not, before its exec.
            os.read(failure, 1)
            tracee = self._seize(self.popen.pid)
            with open(give, "wb", closefd=False) as file:
                file.write(self._order)
            os.close(give)
            give = -1
            _run_to_exec(tracee, failure, json.loads(self._order)["program"])
        finally:
            os.close(failure)
            if give >= 0:
                os.close(give)
        tracee.interrupt()
        tracee.resume()
        remote.run_to_interrupt(tracee, START_TIMEOUT)
        return tracee

    def _popen(self, orders: int, tell: int) -> subprocess.Popen[Any]:
        if not sys.executable:
            raise KernelCannot("this Python does not know its own executable, which spawning needs")
        command = [sys.executable, "-I", "-S", "-c", _HELPER, str(orders), str(tell)]
        previous = signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)  # the program inherits the caller's
        try:
            return subprocess.Popen(command, pass_fds=(orders, tell), **self._streams)
        except (FileNotFoundError, NotADirectoryError) as error:
            where = self._streams["cwd"]
            raise InvalidArgument(f"there is no folder {where!r} to run in", errno=error.errno) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _seize(self, pid: int) -> Tracee:
        permission = self._permission = check_attach(pid, pid)
        tracee = Tracee(pid)
        options = ptrace.PTRACE_O_SUSPEND_SECCOMP if permission.suspend_seccomp else 0
        try:
            tracee.seize(_OPTIONS | options)
        except OSError as error:
            raise explain_seize(error, pid, permission) from error
        return tracee

    def _take(self, tracee: Tracee) -> remote.RemoteCalls:
        pid = tracee.tid
        if elf_class(pid) == 1:
            raise thirty_two_bit(pid)
        assert self._permission is not None, "of the helper, which this was"
        known = look(pid, self._permission)
        pidfd = memory.pidfd_open(pid)
        try:
            with open_process_file(pid, "status") as status:
                # EXITKILL: nothing has to survive
                calls = remote.RemoteCalls(tracee, known, status, frame=False, attended=True)
            fd, _ = take(calls, pidfd, pid)
        finally:
            os.close(pidfd)
        self.adopted = Adopted(fd, pid, pid, survives=False, lacks="it had not begun, and would die with this process")
        return calls


def _run_to_exec(tracee: Tracee, failure: int, program: str) -> None:
    """Let the helper run until it has become the program."""
    while True:
        try:
            stop = tracee.wait(START_TIMEOUT)
        except NoSuchProcess:
            number = int(os.read(failure, 16) or b"0")
            raise _not_executed(program, number) from None
        if stop.event == ptrace.PTRACE_EVENT_EXEC:
            return
        tracee.resume(0 if stop.event else stop.signal)


def _not_executed(program: str, number: int) -> PagescanError:
    if not number:
        return NoSuchProcess(f"{program!r} ended before it began")
    hint = f"chmod +x {program}" if number == errno.EACCES else f"file {program}"
    return InvalidArgument(f"{program!r} cannot be executed: {os.strerror(number)}", hint=hint, errno=number)
