"""``pagescan doctor``: what it says, to a reader and to a program, and how it ends."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from dataclasses import replace

import pytest

import pagescan
from pagescan.cli.doctor import Report, exit_code, to_document
from pagescan.kernel.bugs import BUGS
from pagescan.kernel.facts import FACTS, probe_machine
from pagescan.kernel.findings import BugState, Outcome, State
from pagescan.kernel.ioctl import ABI, syscall_number
from pagescan.trackers.choose import Verdict

from .conftest import run_confined

NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")


@pytest.fixture(scope="module")
def capabilities():
    return probe_machine()


def with_tracking(capabilities, outcome):
    """The same machine, but tracking came out like this."""
    findings = tuple(replace(f, outcome=outcome) if f.key == "tracking" else f for f in capabilities.findings)
    return replace(capabilities, findings=findings)


class TestJson:
    def test_document_field_by_field(self, run):
        done = run("doctor", "--json")
        document = done.json()
        assert done.err == ""
        assert list(document) == [
            "schema", "version", "pagescan", "machine", "tracking_works", "engine", "engines", "features", "bugs",
        ]  # fmt: skip
        assert (document["schema"], document["version"]) == ("pagescan.doctor", 1)
        assert document["pagescan"] == pagescan.__version__
        assert document["machine"] == {
            "release": platform.release(),
            "architecture": platform.machine(),
            "page_size": os.sysconf("SC_PAGE_SIZE"),
            "user": os.geteuid(),
        }
        assert [feature["key"] for feature in document["features"]] == [fact.key for fact in FACTS]
        assert [bug["key"] for bug in document["bugs"]] == [bug.key for bug in BUGS]
        for feature in document["features"]:
            assert list(feature) == [
                "key", "group", "title", "about", "since", "source", "state", "evidence", "cause", "cure",
            ]  # fmt: skip
            assert feature["state"] in {state.value for state in State}
            assert feature["evidence"] or feature["cause"], feature["key"]
            assert feature["state"] == "works" or feature["cause"], feature["key"]
        for bug in document["bugs"]:
            assert list(bug) == ["key", "title", "fixed", "state", "evidence", "handling"]
            assert bug["state"] in {state.value for state in BugState}
            assert bug["evidence"]
            assert bug["handling"]

    def test_engine_is_what_auto_takes(self, run):
        document = run("doctor", "--json").json()
        engine = document["engine"]
        assert list(engine) == ["name", "why", "hint"]
        assert (engine["name"] == "pagemap-scan") == document["tracking_works"]

    def test_engine_that_is_forced_by_a_wrong_name_is_told(self, run, monkeypatch):
        monkeypatch.setenv("PAGESCAN_ENGINE", "steam")
        document = run("doctor", "--json").json()
        assert document["engine"]["name"] is None
        assert "steam" in document["engine"]["why"]


WORKING = Verdict("pagemap-scan", True, "it was seen")


def refusal(why: str, hint: str | None = None) -> Verdict:
    return Verdict("pagemap-scan", False, why, hint)


class TestReport:
    @pytest.mark.parametrize("width", [80, 110])
    def test_fits_the_width_but_for_commands(self, capabilities, width):
        lines = list(Report(width, colour=False).lines(capabilities, [WORKING]))
        assert max(len(line) for line in lines if "mend: " not in line) <= width

    def test_names_every_feature_and_bug(self, capabilities):
        text = "\n".join(Report(1000, colour=False).lines(capabilities, [WORKING]))
        assert {fact.title for fact in FACTS if fact.title not in text} == set()
        assert {bug.title for bug in BUGS if bug.title not in text} == set()
        assert 'Tracking works. engine="auto" takes pagemap-scan: it was seen.' in text

    def test_says_why_not_and_the_command_that_mends_it(self, capabilities):
        refused = with_tracking(
            capabilities, Outcome(State.REFUSED, "tried it", "somebody forbids it", "sudo allow it")
        )
        lines = list(Report(80, colour=False).lines(refused, [refusal("somebody forbids it", "sudo allow it")]))
        assert "  refused    tracking             tried it" in lines
        assert f"{'':34}why: somebody forbids it" in lines
        assert f"{'':34}mend: sudo allow it" in lines
        verdict = lines[lines.index("Verdict") + 1 :]
        assert verdict[:2] == ["  Tracking does not work here: somebody forbids it.", "  mend: sudo allow it"]

    def test_says_which_engine_takes_over(self, capabilities):
        engines = [refusal("somebody forbids it", "sudo allow it"), Verdict("compare", True, "it was seen")]
        lines = list(Report(80, colour=False).lines(capabilities, engines))
        verdict = lines[lines.index("Verdict") + 1 :]
        assert 'engine="auto" takes compare.' in " ".join(verdict[0].split() + verdict[1].split())
        assert verdict[-2:] == ["  The better way does not work here: somebody forbids it.", "  mend: sudo allow it"]
        assert "  works      compare              it was seen" in lines

    def test_command_is_never_wrapped(self, capabilities):
        command = "sudo " + "x " * 60 + "y"
        refused = with_tracking(capabilities, Outcome(State.REFUSED, "", "no", command))
        assert any(line.endswith(f"mend: {command}") for line in Report(60, False).lines(refused, [refusal("no")]))

    def test_colours_only_when_asked(self, capabilities):
        assert "\x1b" not in "".join(Report(80, colour=False).lines(capabilities, [WORKING]))
        assert "\x1b[32m" in "".join(Report(80, colour=True).lines(capabilities, [WORKING]))


class TestExitCode:
    @pytest.mark.parametrize(
        ("state", "code"),
        [(State.WORKS, 0), (State.REFUSED, 4), (State.MISSING, 5), (State.UNKNOWN, 5)],
    )
    def test_tracking_decides(self, capabilities, state, code):
        assert exit_code(with_tracking(capabilities, Outcome(state, "seen"))) == code

    def test_document_repeats_it(self, capabilities):
        missing = with_tracking(capabilities, Outcome(State.MISSING, "", "no"))
        assert to_document(missing, [refusal("no")])["tracking_works"] is False

    def test_command_ends_with_it(self, run):
        done = run("doctor", "--json")
        assert done.code == {"works": 0, "refused": 4}.get(done.json()["features"][0]["state"], 5)


@only_root
class TestOrdinaryUser:
    def test_tracking_needs_no_privilege(self, capabilities):
        if capabilities["tracking"].state is not State.WORKS:
            pytest.skip(f"not even for root: {capabilities['tracking'].outcome.cause}")
        done = run_confined(become_nobody, "doctor", "--json")
        document = done.json()
        states = {feature["key"]: feature["state"] for feature in document["features"]}
        assert done.code == 0
        assert document["machine"]["user"] == NOBODY
        assert states["tracking"] == "works"
        assert states["kernel-writes"] == "works"
        assert states["other-users"] == "refused"

    @pytest.mark.skipif(ABI not in ("x86_64", "aarch64"), reason="the filter below is written for these")
    def test_blocked_system_call_is_a_missing_permission(self, capabilities):
        if capabilities["tracking"].state is not State.WORKS:
            pytest.skip(f"not even for root: {capabilities['tracking'].outcome.cause}")

        def confine():
            become_nobody()
            forbid(syscall_number("userfaultfd"))

        done = run_confined(confine, "doctor", "--json")
        document = done.json()
        features = {feature["key"]: feature for feature in document["features"]}
        assert done.code == 4
        assert features["tracking"]["state"] == features["user-mode-only"]["state"] == "refused"
        assert "seccomp" in features["tracking"]["cause"]
        assert features["tracking"]["cure"] == f"sudo setfacl -m u:{NOBODY}:rw /dev/userfaultfd"
        assert features["present"]["state"] == "works"
        assert document["engine"]["name"] == "compare"
        assert "seccomp" in document["engines"][0]["why"]
        assert document["engine"]["hint"] == features["tracking"]["cure"]
        assert features["confinement"]["evidence"].endswith("seccomp a filter")


def become_nobody() -> None:
    """As if nobody had started this process: the change of user alone would leave its own /proc files out of reach."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    prctl(4, 1)  # PR_SET_DUMPABLE


def prctl(*arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    rest = [ctypes.c_ulong(value) for value in (*arguments[1:], 0, 0, 0, 0)[:4]]
    if libc.prctl(arguments[0], *rest):
        raise OSError(ctypes.get_errno(), "prctl")


def forbid(number: int) -> None:
    """Have a system call answer EPERM in this process, for ever: a seccomp filter of four instructions."""
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in [(load, 0, 0, 0), (equal, 0, 1, number), (answer, 0, 0, refuse), (answer, 0, 0, allow)]
    )
    code = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    prctl(22, 2, ctypes.addressof(filter_))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_not_linux(run, monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    done = run("doctor")
    assert done.code == 5
    assert done.err.startswith("pagescan: there is no PAGEMAP_SCAN on plan9")
