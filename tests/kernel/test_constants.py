"""Every number of the kernel layer against the newest kernel headers to be had, through the C compiler.

``scripts/kernel-headers`` finds or fetches them. A name that the headers lack is skipped by that name; what Linux 6.12
has must be there.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pagescan import abi
from pagescan.kernel import ioctl, memory, procfs, userfaultfd
from pagescan.query import Category

SCRIPT = Path(__file__).parents[2] / "scripts" / "kernel-headers"
HEADERS = ("linux/fs.h", "linux/userfaultfd.h", "linux/mman.h", "asm/unistd.h", "stdio.h", "stddef.h")

#: What we say, by the kernel's name.
OURS: dict[str, int] = {
    **{f"PAGE_IS_{category.name}": int(category) for category in Category},
    "PM_SCAN_WP_MATCHING": abi.PM_SCAN_WP_MATCHING,
    "PM_SCAN_CHECK_WPASYNC": abi.PM_SCAN_CHECK_WPASYNC,
    "PAGEMAP_SCAN": ioctl.PAGEMAP_SCAN,
    "PROCMAP_QUERY": ioctl.PROCMAP_QUERY,
    "UFFD_API": ioctl.UFFD_API,
    **{f"UFFD_FEATURE_{name}": 1 << bit for bit, (name, _) in enumerate(userfaultfd.FEATURES)},
    **{f"UFFDIO_REGISTER_MODE_{mode.name}": int(mode) for mode in abi.RegisterMode},
    "UFFDIO_WRITEPROTECT_MODE_WP": userfaultfd.WRITEPROTECT_MODE_WP,
    "UFFDIO_RWPROTECT_MODE_RWP": userfaultfd.RWPROTECT_MODE_RWP,
    "UFFD_USER_MODE_ONLY": userfaultfd.UFFD_USER_MODE_ONLY,
    "USERFAULTFD_IOC_NEW": ioctl.USERFAULTFD_IOC_NEW,
    **{name: getattr(ioctl, name) for name in vars(ioctl) if name.startswith("UFFDIO_")},
    **{f"MADV_{advice.name}": int(advice) for advice in memory.Advice},
    **{
        name: value
        for name, value in vars(memory).items()
        if name.startswith(("MAP_", "PROT_", "MS_")) and isinstance(value, int)
    },
    **{
        f"__NR_{name}": ioctl.syscall_number(name)
        for name in ("userfaultfd", "pidfd_open", "pidfd_getfd", "process_madvise")
    },
}
#: Names newer than Linux 6.12, which older headers may lack.
NEWER = {
    "PAGE_IS_GUARD",
    "PAGE_IS_ACCESSED",
    "UFFD_FEATURE_RWP",
    "UFFD_FEATURE_RWP_ASYNC",
    "UFFDIO_REGISTER_MODE_RWP",
    "UFFDIO_RWPROTECT",
    "UFFDIO_RWPROTECT_MODE_RWP",
    "MADV_GUARD_INSTALL",
    "MADV_GUARD_REMOVE",
}
#: Structures by the macro that tells that they are there: size, and the offset of each field in our order.
PROCMAP_FIELDS = (
    "size query_flags query_addr vma_start vma_end vma_flags vma_page_size vma_offset inode dev_major dev_minor "
    "vma_name_size build_id_size vma_name_addr build_id_addr"
)
STRUCTURES: dict[str, tuple[str, int, dict[str, int]]] = {
    "pm_scan_arg": ("PAGEMAP_SCAN", abi.SCAN_ARG_SIZE, {name: 8 * i for i, name in enumerate(abi.SCAN_FIELDS)}),
    "page_region": ("PAGEMAP_SCAN", 24, {"start": 0, "end": 8, "categories": 16}),
    "procmap_query": (
        "PROCMAP_QUERY",
        104,
        dict(zip(PROCMAP_FIELDS.split(), [*range(0, 72, 8), 72, 76, 80, 84, 88, 96], strict=True)),
    ),
    "uffdio_api": ("UFFDIO_API", 24, {"api": 0, "features": 8, "ioctls": 16}),
    "uffdio_range": ("UFFDIO_API", 16, {"start": 0, "len": 8}),
    "uffdio_register": ("UFFDIO_API", 32, {"range": 0, "mode": 16, "ioctls": 24}),
    "uffdio_writeprotect": ("UFFDIO_WRITEPROTECT", 24, {"range": 0, "mode": 16}),
    "uffdio_rwprotect": ("UFFDIO_RWPROTECT", 24, {"range": 0, "mode": 16}),
}
ENUMERATED = {
    "PROCMAP_QUERY_COVERING_OR_NEXT_VMA": procfs.COVERING_OR_NEXT_VMA,
    **dict(
        zip(
            (
                "PROCMAP_QUERY_VMA_READABLE",
                "PROCMAP_QUERY_VMA_WRITABLE",
                "PROCMAP_QUERY_VMA_EXECUTABLE",
                "PROCMAP_QUERY_VMA_SHARED",
            ),
            (bit for bit, _ in procfs._PERMISSIONS),
            strict=True,
        )
    ),
}


def program() -> str:
    """A C program that prints ``name value`` for everything the headers have."""
    lines = [f"#include <{header}>" for header in HEADERS] + ["int main(void) {"]
    show = '\tprintf("{0} %llu\\n", (unsigned long long)({1}));'
    for name in OURS:
        lines += [f"#ifdef {name}", show.format(name, name), "#endif"]
    for struct, (macro, _, fields) in STRUCTURES.items():
        lines += [f"#ifdef {macro}", show.format(struct, f"sizeof(struct {struct})")]
        lines += [show.format(f"{struct}.{field}", f"offsetof(struct {struct}, {field})") for field in fields]
        lines += ["#endif"]
    lines += ["#ifdef PROCMAP_QUERY", *(show.format(name, name) for name in ENUMERATED), "#endif", "return 0; }"]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def include() -> Path:
    """The include directory, or a skip that says why there is none."""
    if not shutil.which("gcc"):
        pytest.skip("constants not checked: no gcc")
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"constants not checked: {done.stderr.strip()}")
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def theirs(include: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the headers say, by name."""
    folder = tmp_path_factory.mktemp("constants")
    (folder / "show.c").write_text(program())
    triple = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    where = [f"-isystem{include / triple}", f"-isystem{include}"]
    subprocess.run(["gcc", *where, "-o", str(folder / "show"), str(folder / "show.c")], check=True, timeout=60)
    printed = subprocess.run([str(folder / "show")], capture_output=True, text=True, check=True, timeout=10).stdout
    return {name: int(value) for name, value in (line.split() for line in printed.splitlines())}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", OURS)
def test_constant(name, theirs):
    if name not in theirs:
        assert name in NEWER, f"the headers lack {name}, which Linux 6.12 has"
        pytest.skip(f"the headers lack {name}")
    assert OURS[name] == theirs[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("struct", STRUCTURES)
def test_structure(struct, theirs):
    macro, size, fields = STRUCTURES[struct]
    if struct not in theirs:
        assert macro in NEWER, f"the headers lack struct {struct}, which Linux 6.12 has"
        pytest.skip(f"the headers lack struct {struct}")
    found = {field: theirs[f"{struct}.{field}"] for field in fields}
    assert (size, fields) == (theirs[struct], found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ENUMERATED)
def test_enumerated_constant(name, theirs):
    assert ENUMERATED[name] == theirs[name]


def test_the_structures_in_use_have_those_sizes():
    assert abi.REGION_DTYPE.itemsize == 24
    assert procfs._QUERY.size == 104
    assert len(abi.pack_scan_argument()) == 96


#: For each interface: the header folder, and what its compiler would define.
FOREIGN = {
    "i386": ("i386-linux-gnu", ["-U__x86_64__", "-D__i386__"]),
    "aarch64": ("aarch64-linux-gnu", []),
    "arm": ("arm-linux-gnueabihf", ["-D__ARM_EABI__"]),
    "riscv64": ("riscv64-linux-gnu", ["-D__riscv_xlen=64"]),
    "loongarch64": ("loongarch64-linux-gnu", []),
    "s390x": ("s390x-linux-gnu", ["-D__s390x__"]),
    "powerpc": ("powerpc64le-linux-gnu", ["-D__powerpc64__"]),
    "mips64": ("mips64el-linux-gnuabi64", ["-D_MIPS_SIM=_ABI64", "-D_ABI64=3", "-D_ABIO32=1", "-D_ABIN32=2"]),
    "mips32": ("mipsel-linux-gnu", ["-D_MIPS_SIM=_ABIO32", "-D_ABI64=3", "-D_ABIO32=1", "-D_ABIN32=2"]),
    "sparc64": ("sparc64-linux-gnu", ["-D__arch64__", "-D__sparc__"]),
    "alpha64": ("alpha-linux-gnu", []),
    "parisc64": ("hppa-linux-gnu", []),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("abi_name", FOREIGN)
def test_numbers_of_other_architectures(abi_name, include):
    folder, defines = FOREIGN[abi_name]
    if not (include / folder / "asm" / "unistd.h").exists():
        pytest.skip(f"the headers lack the architecture {folder} (on {platform.machine()})")
    calls = ("userfaultfd", "pidfd_open", "pidfd_getfd", "process_madvise")
    source = "#include <asm/unistd.h>\n#include <asm/ioctl.h>\n"
    source += "".join(f"SHOW __NR_{name}\n" for name in calls) + "SHOW _IOC_NONE\nSHOW _IOC_WRITE\nSHOW _IOC_READ\n"
    where = [f"-I{include / folder}", f"-I{include}"]
    command = ["gcc", "-E", "-P", "-nostdinc", "-undef", *defines, *where, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True, timeout=30)
    shown = [_number(line.removeprefix("SHOW ")) for line in done.stdout.splitlines() if line.startswith("SHOW ")]
    encoding = ioctl.encoding_for(abi_name)
    ours = [ioctl.syscall_number(name, abi_name) for name in calls]
    assert shown == [*ours, encoding.none, encoding.write, encoding.read]


def _number(expression: str) -> int:
    """The sum a preprocessor leaves: ``(5000 + 317)``, ``1U``."""
    assert re.fullmatch(r"[0-9xa-fA-FU()+ ]+", expression), expression
    return sum(int(part.rstrip("U"), 0) for part in re.findall(r"0x[0-9a-fA-F]+|\d+U?", expression))
