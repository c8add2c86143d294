"""One guest: its QEMU, and what it says."""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from . import initramfs, userland
from .results import Outcome, Result

if TYPE_CHECKING:
    from .images import Image

GUEST = Path(__file__).parent / "guest"
MARK = "@@pagescan@@"
#: Of the checkout, what a guest gets.
CHECKOUT = ("src", "tests", "scripts", "pyproject.toml")
DISK_SIZE = 256 << 20
#: Without a word from the guest for so long, it hangs: pytest ends a test that hangs well before.
SILENCE = 600.0
OOPS = re.compile(r"Kernel panic|Oops|BUG: |Internal error")

#: no_timer_check: on a busy machine the check that the timer ticks fails, and x86 panics.
BOOT_OPTIONS = (
    "quiet loglevel=3 panic=-1 rdinit=/init random.trust_cpu=on no_timer_check rcupdate.rcu_cpu_stall_suppress=1"
)

MACHINES = {
    # max: whatever QEMU can imitate.
    "amd64": ("qemu-system-x86_64", ["-M", "q35", "-cpu", "max"], "ttyS0"),
    # impdef: pointer authentication by the specification's own cipher takes most of a TCG guest's time.
    "arm64": ("qemu-system-aarch64", ["-M", "virt", "-cpu", "max,pauth-impdef=on"], "ttyAMA0"),
}


@dataclass(frozen=True, slots=True)
class Orders:
    """What guests are to do, and how long they may take.

    Attributes:
        pytest: arguments.
        environment: variables set in the guest.
        seconds: after which a guest is ended.
        folder: for a folder of each guest, which holds what its console said.
        keep: whether what it was booted from stays there, too.
    """

    pytest: tuple[str, ...]
    environment: dict[str, str]
    seconds: float
    folder: Path
    keep: bool


def boot(image: Image, system: Path, tools: Path, orders: Orders) -> Result:
    """Boot the image, run the tests in it, and wait for its end."""
    began = time.monotonic()
    result = Result(image.kernel.name, str(image.package))
    folder = orders.folder / image.kernel.name
    folder.mkdir(parents=True, exist_ok=True)
    command = ["nice", *_command(image, folder, tools)]
    try:
        _write_initramfs(folder / "initramfs", system, image, orders, tools)
        _make_disks(folder, tools)
        (folder / "command").write_text(shlex.join(command) + "\n")
        _run(command, result, folder / "console", began + orders.seconds)
    finally:
        if not orders.keep:
            for name in ("initramfs", "ext4", "swap", "command"):
                (folder / name).unlink(missing_ok=True)
    result.seconds = time.monotonic() - began
    if not result.ended and not result.trouble:
        last = (folder / "console").read_text()[-500:].strip()
        result.trouble = f"the guest ended before its tests: {last!r}"
    return result


def _run(command: list[str], result: Result, console: Path, deadline: float) -> None:
    with (
        console.open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _listen(process, result, log, deadline)
        finally:
            process.kill()


def _command(image: Image, folder: Path, tools: Path) -> list[str]:
    name, machine, console = MACHINES[image.kernel.architecture]
    data = tools / "usr" / "share"
    command = [*userland.tool(tools, name), *machine, "-accel", "tcg", "-m", "2048", "-smp", "1"]
    for part in ("qemu", "seabios", "ipxe/qemu"):
        command += ["-L", str(data / part)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
    for number, disk in enumerate(("ext4", "swap")):
        command += ["-drive", f"if=none,id=d{number},format=raw,file={folder / disk}"]
        command += ["-device", f"nvme,serial={disk},drive=d{number}"]
    command += ["-kernel", str(image.vmlinuz), "-initrd", str(folder / "initramfs")]
    return [*command, "-append", f"console={console} {BOOT_OPTIONS}"]


def _write_initramfs(target: Path, system: Path, image: Image, orders: Orders, tools: Path) -> None:
    wanted = json.dumps({"pytest": orders.pytest, "environment": orders.environment}).encode()
    with target.open("wb") as file:
        file.write(system.read_bytes())
        file.write(initramfs.member("init", 0o100755, (GUEST / "init.py").read_bytes()))
        file.writelines(initramfs.member(f"modules/{path.name}", 0o100644, path.read_bytes()) for path in image.modules)
        file.writelines(initramfs.folders("repo", "repo/guest"))
        file.write(initramfs.member("repo/run.json", 0o100644, wanted))
        file.writelines(initramfs.tree(GUEST, under="repo/guest/"))
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            _copy_checkout(root / "repo")
            userland.compile_all(root, tools, "repo/src")
            file.writelines(initramfs.tree(root / "repo", under="repo/"))
        file.write(initramfs.end())


def _copy_checkout(target: Path) -> None:
    """What a guest needs of the checkout: what other Pythons compiled of it is not for it."""
    target.mkdir()
    for name in map(Path, CHECKOUT):
        if name.is_dir():
            shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(name, target / name)


def _make_disks(folder: Path, tools: Path) -> None:
    for name in ("ext4", "swap"):
        with (folder / name).open("wb") as file:
            file.truncate(DISK_SIZE)
    # -E: whatever writing the guest would do later, do now; without /etc/mke2fs.conf the defaults are ext4's.
    options = ["-q", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    environment = {**os.environ, "MKE2FS_CONFIG": str(tools / "etc" / "mke2fs.conf")}
    command = [*userland.tool(tools, "mke2fs"), *options, str(folder / "ext4")]
    subprocess.run(command, check=True, capture_output=True, env=environment)


def _listen(process: subprocess.Popen[bytes], result: Result, log: IO[str], deadline: float) -> None:
    """Take in what the guest says until it ends, or has to be ended."""
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    output = process.stdout

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put(b"")

    began = time.monotonic()
    threading.Thread(target=read, daemon=True).start()
    while True:
        patience = min(SILENCE, deadline - time.monotonic())
        try:
            line = lines.get(timeout=max(0.0, patience)).decode(errors="replace")
        except queue.Empty:
            why = "hung" if patience == SILENCE else "was not done in time and was ended"
            result.trouble = f"the guest {why}, in {result.running or 'no test'}"
            return
        if not line:
            return
        log.write(f"{time.monotonic() - began:7.1f} {line}")
        log.flush()
        _take_in(line.strip(), result)


def _take_in(line: str, result: Result) -> None:
    if OOPS.search(line) and MARK not in line:
        result.alarms.append(line)
    if not line.startswith(MARK):
        return
    try:
        message: dict[str, Any] = json.loads(line.removeprefix(MARK))
    except ValueError:
        result.notes.append(f"garbled: {line[:200]}")
        return
    if "start" in message:
        result.running = message["start"]
    elif "test" in message:
        result.add(Outcome(message["test"], message["outcome"], message["seconds"], message["text"]))
        result.properties |= message.get("properties", {})
    elif "release" in message:
        result.release, result.machine, result.page_size = (message[k] for k in ("release", "machine", "page_size"))
    elif "doctor" in message:
        result.doctor = message["doctor"]
    elif "collected" in message:
        result.collected = message["collected"]
    result.alarms += message.get("alarms", [])
    result.notes += [message["note"]] if "note" in message else []
    if "end" in message:
        result.ended = True
