#!/usr/bin/python3.13
"""The first process of a guest: mounts what tests look for, runs the doctor and pytest, says so, and switches off.

Everything for the host goes to the console as one line: MARK, then JSON. /repo/run.json holds the orders.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

MARK = "@@pagescan@@"
LIBC = ctypes.CDLL(None, use_errno=True)
ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONPATH": "/repo/src:/wheels:/repo/guest"}
#: What the kernel says when it went wrong itself.
ALARM = re.compile(r"BUG:|Oops|WARNING:|general protection|unable to handle|blocked for more than|Bad page|kernel bug")


def emit(**message: object) -> None:
    """One message to the host."""
    # A line of its own, whatever the kernel was printing.
    os.write(1, f"\n{MARK}{json.dumps(message)}\n".encode())


def check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str) -> None:
    os.makedirs(target, exist_ok=True)
    check(LIBC.mount(source.encode(), target.encode(), kind.encode(), 0, None), f"mount {target}")


def load_modules() -> None:
    """Those the image brought along, in the order of their names."""
    for path in sorted(Path("/modules").iterdir()):
        content = path.read_bytes()
        with contextlib.suppress(OSError):  # EEXIST, or hardware it is not for
            check(LIBC.init_module(content, ctypes.c_ulong(len(content)), b""), path.name)


def disk(serial: str, seconds: float = 20) -> str:
    """The disk with this serial number: they appear some time after their driver, in any order."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in Path("/sys/class/block").glob("nvme*n1"):
            with contextlib.suppress(OSError):
                if (path / "device" / "serial").read_text().strip() == serial and Path("/dev", path.name).exists():
                    return f"/dev/{path.name}"
        time.sleep(0.05)
    raise OSError(f"no disk {serial}")


def swap_on(device: str) -> None:
    """Make the device swap space (the header's layout depends on the page size) and use it."""
    page = os.sysconf("SC_PAGE_SIZE")
    header = bytearray(page)
    with open(device, "r+b") as disk:
        size = disk.seek(0, os.SEEK_END)
        struct.pack_into("=III", header, 1024, 1, size // page - 1, 0)
        header[-10:] = b"SWAPSPACE2"
        disk.seek(0)
        disk.write(header)
    check(LIBC.swapon(device.encode(), 0), "swapon")


def set_up() -> list[str]:
    """Mounts, disks, huge pages; what could not be done."""
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("devtmpfs", "/dev", "devtmpfs")
    mount("tmpfs", "/dev/shm", "tmpfs")
    mount("tmpfs", "/tmp", "tmpfs")
    failed = []
    load_modules()
    for step in (use_disks, huge_pages):
        try:
            step()
        except OSError as error:
            failed.append(f"{step.__name__}: {error}")
    return failed


def use_disks() -> None:
    """An ext4 to work in, and swap."""
    mount(disk("ext4"), "/disk", "ext4")
    os.makedirs("/disk/tmp", exist_ok=True)
    ENVIRONMENT["TMPDIR"] = "/disk/tmp"
    shutil.copytree("/repo", "/disk/repo")  # tests make files where they are
    swap_on(disk("swap"))


def huge_pages() -> None:
    Path("/proc/sys/vm/nr_hugepages").write_text("12")


def run(*command: str, output: str) -> int:
    """A Python with these arguments, its output in a file; this being process 1, it also buries orphans."""
    folder = "/disk/repo" if os.path.isdir("/disk/repo") else "/repo"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=file, stderr=2
        )
        while True:
            pid, status = os.wait()
            if pid == process.pid:
                return os.waitstatus_to_exitcode(status)


def doctor() -> None:
    """What pagescan itself says of this kernel."""
    run("-m", "pagescan", "doctor", "--json", output="/tmp/doctor")
    text = Path("/tmp/doctor").read_text()
    try:
        emit(doctor=json.loads(text))
    except ValueError:
        emit(note=f"pagescan doctor --json printed no JSON: {text[-500:]!r}")


def kernel_alarms() -> list[str]:
    """What the kernel's own log says of trouble."""
    with open(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as log:
        lines = []
        with contextlib.suppress(BlockingIOError):
            while line := log.read(8192):
                lines.append(line.decode(errors="replace").partition(";")[2].split("\n")[0])
    return [line for line in lines if ALARM.search(line)][:20]


def main() -> None:
    failed = set_up()
    emit(release=os.uname().release, machine=os.uname().machine, page_size=os.sysconf("SC_PAGE_SIZE"))
    for note in failed:
        emit(note=note)
    orders = json.loads(Path("/repo/run.json").read_text())
    ENVIRONMENT.update(orders["environment"])
    doctor()
    status = run("-m", "pytest", "-p", "report", *orders["pytest"], output="/tmp/pytest")
    if status not in (0, 1):
        emit(note=f"pytest ended with {status}: {Path('/tmp/pytest').read_text()[-3000:]}")
    if alarms := kernel_alarms():
        emit(alarms=alarms)
    emit(end=status)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the host has to hear of it, and the guest to end
        emit(note=f"init failed: {error!r}", end=-1)
    finally:
        os.sync()
        LIBC.reboot(0x4321FEDC)
