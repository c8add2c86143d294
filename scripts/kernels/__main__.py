"""Runs the tests that need a kernel on Debian's kernels, in QEMU without KVM.

Kernels are named SERIES[.PATCH][-oldest][-arm64[-16k]]: 6.12 is the newest 6.12 on offer for x86-64, 6.12-oldest the
first, 6.12-arm64-16k the newest for arm64 with pages of 16 KiB. What cannot be had is skipped by name, with the reason.
The exit status is 1 if a test failed, a guest did not come to its end, or a kernel went wrong itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from . import images, results, userland
from .debian import Debian, Unavailable
from .images import Image, Kernel
from .machine import Orders, boot
from .results import Result

#: The tests that meet the kernel. What they do on the model as well says nothing of a kernel, and is left out.
TESTS = ("kernel", "scanning", "trackers", "process", "conformance", "model/test_differential.py")
NOT_THE_MODEL = "not model-"
#: No cache: the guest is thrown away. Its limits are wider than pyproject.toml's, since it is 10 to 20 times slower.
PYTEST = (
    *("-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"),
    *("-o", "timeout=180", "-o", "faulthandler_timeout=240"),
)
#: Variables for the guest, as they are here, or else so.
ENVIRONMENT = {
    "HYPOTHESIS_PROFILE": "dev",
    "PAGESCAN_DIFFERENTIAL_SECONDS": "150",
    "PAGESCAN_DIFFERENTIAL_EXAMPLES": "8",
}
SUPPORT = Path("docs/support.md")
#: Guests at a time: two use two processors, and more would only make each other time out.
AT_A_TIME = min(2, os.cpu_count() or 1)


def main() -> int:
    arguments = parse(sys.argv[1:])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pagescan" / "kernels"
    cache.mkdir(parents=True, exist_ok=True)
    stock = Stock(cache)
    if arguments.list:
        for kernel in arguments.kernel:
            print(f"{kernel.name:20} {stock.offer(kernel)}")
        return 0
    orders = Orders(
        pytest=(*PYTEST, *selection(arguments)),
        environment={name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()},
        seconds=arguments.timeout,
        folder=cache / "guests",
        keep=arguments.keep,
    )
    found = run_all(arguments.kernel, stock, orders)
    print("\n" + results.as_text(found))
    if arguments.markdown:
        results.write_tables(SUPPORT, found)
    print(f"\nwhat each guest printed: {orders.folder}/*/console")
    return 0 if all(result.good for result in found) else 1


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments; ``pytest`` is what follows ``--``."""
    where = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser("scripts/test-kernels", description=__doc__, epilog="what follows -- is pytest's")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kernel", action="append", type=Kernel.parse, metavar="NAME", help="only this; repeatable")
    parser.add_argument("--list", action="store_true", help="say which package each kernel would come from, and end")
    parser.add_argument("-k", dest="expression", metavar="EXPR", help="only tests whose names match, as pytest's -k")
    parser.add_argument("--markdown", action="store_true", help="put the results into docs/support.md")
    parser.add_argument("--keep", action="store_true", help="keep each guest's initramfs, disks and command")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="for one guest (default: 1800)")
    arguments = parser.parse_args(argv[:where])
    arguments.kernel = arguments.kernel or [Kernel.parse(name) for name in images.DEFAULT]
    arguments.pytest = argv[where + 1 :]
    return arguments


def selection(arguments: argparse.Namespace) -> list[str]:
    """pytest's arguments: the tests that there are of TESTS, unless some are named."""
    chosen = ["-k", arguments.expression or NOT_THE_MODEL]
    if not any(argument.startswith("tests") for argument in arguments.pytest):
        chosen += [f"tests/{name}" for name in TESTS if Path("tests", name).exists()]
    return chosen + list(arguments.pytest)


class Stock:
    """What the mirror and the cache have. Its methods raise Unavailable."""

    def __init__(self, cache: Path):
        self.cache = cache
        self._updated = False

    def debian(self, architecture: str = "") -> Debian:
        """Debian's packages, with lists not older than a day."""
        debian = Debian(self.cache / "apt", architecture)
        if not self._updated:
            if problem := debian.update():
                print(f"note: {problem}")
            self._updated = True
        return debian

    def offer(self, kernel: Kernel) -> str:
        """The package a kernel comes from, or why there is none."""
        try:
            return str(images.choose(kernel, self.debian(kernel.architecture)))
        except Unavailable as error:
            return f"not to be had: {error}"

    def guest(self, kernel: Kernel) -> tuple[Image, Path, Path]:
        """A kernel, a system for it, and QEMU."""
        debian = self.debian(kernel.architecture)
        tools = userland.host_tools(self.debian(), self.cache)
        return images.obtain(kernel, debian, self.cache), userland.guest_system(debian, self.cache, tools), tools


def run_all(kernels: list[Kernel], stock: Stock, orders: Orders) -> list[Result]:
    """The tests on each kernel: guests run while the next kernel is fetched."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return [future.result() for future in [_start(kernel, stock, orders, pool) for kernel in kernels]]


def _start(kernel: Kernel, stock: Stock, orders: Orders, pool: ThreadPoolExecutor) -> Future[Result]:
    try:
        image, system, tools = stock.guest(kernel)
    except (Unavailable, OSError) as error:
        print(f"{kernel.name}: SKIPPED: {error}", flush=True)
        skipped: Future[Result] = Future()
        skipped.set_result(Result(kernel.name, unavailable=str(error)))
        return skipped
    print(f"{kernel.name}: {image.package}", flush=True)
    return pool.submit(boot, image, system, tools, orders)


if __name__ == "__main__":
    sys.exit(main())
