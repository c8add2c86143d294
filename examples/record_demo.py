"""Programs that know nothing of pagescan, recorded: a numpy training loop, and redis under load where it is installed.

    python examples/record_demo.py [FOLDER]

Each recording is shown as a summary and a heat map, and written to FOLDER as a page for the browser.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PAGESCAN = [sys.executable, "-m", "pagescan"]
#: What `pagescan record` ends with where a permission is missing, and where the kernel cannot.
REFUSED = (4, 5)
LOAD = ["-t", "set", "-r", "200000", "-d", "512", "-P", "8", "-q"]


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    folder.mkdir(parents=True, exist_ok=True)
    record_training(folder / "training.pagescan")
    missing = [name for name in ("redis-server", "redis-benchmark") if not shutil.which(name)]
    if missing:
        skip("redis under load", f"{', '.join(missing)} not installed: apt-get install redis-server redis-tools")
    else:
        record_redis(folder / "redis.pagescan")
    return 0


def record_training(file: Path) -> None:
    program = str(Path(__file__).with_name("training.py"))
    if record(file, "-i", "50ms", "--", sys.executable, program):
        show(file)


def record_redis(file: Path) -> None:
    with redis_server() as (server, port):
        print("\nredis alone:", throughput(port, 200_000), flush=True)
        benchmark = ["redis-benchmark", "-p", str(port), *LOAD, "-n", "100000000"]
        with subprocess.Popen(benchmark, stdout=subprocess.DEVNULL) as load:
            recorded = record(file, "-p", str(server.pid), "-d", "4s")
            load.terminate()
        if recorded:
            show(file)


@contextlib.contextmanager
def redis_server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A redis on a free port of the loopback interface, which keeps nothing on disk."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(server, port)
                yield server, port
            finally:
                server.terminate()


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"redis-server ended with {server.returncode}")


def throughput(port: int, count: int) -> str:
    command = ["redis-benchmark", "-p", str(port), *LOAD, "-n", str(count)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.replace("\r", "\n").strip().splitlines()[-1]


def record(file: Path, *arguments: str) -> bool:
    """Whether it was recorded. What it says goes to the terminal."""
    command = ["record", "-o", str(file), "--force", *arguments]
    print(f"\n$ pagescan {' '.join(command)}", flush=True)
    code = subprocess.run([*PAGESCAN, *command], check=False).returncode
    if code in REFUSED:
        skip(file.stem, f"pagescan record ended with exit code {code}; it has said why")
        return False
    if code:
        raise SystemExit(code)
    return True


def show(file: Path) -> None:
    page = file.with_suffix(".html")
    for arguments in (["summary"], ["heatmap"], ["--html", str(page), "--force"]):
        print(f"\n$ pagescan report {file} {' '.join(arguments)}", flush=True)
        subprocess.run([*PAGESCAN, "report", str(file), *arguments], check=True)
    print(f"\nopen {page} in a browser", flush=True)


def skip(what: str, why: str) -> None:
    print(f"SKIPPED {what}: {why}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
