"""Programs to attach to: each checks by itself that nothing happened to it.

C programs are compiled once a session, into a folder that other users may read, for the very processor they run on, so
that the widest vector registers are in use. A program prints lines; "ready" is the
first, and what comes after it is its verdict.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Runs in registers alone, integers and vectors, and compares each run with the first. SIGTERM asks for the verdict.
SPIN = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>
typedef double vector __attribute__((vector_size(64)));
static volatile sig_atomic_t over;
static void end(int signal) { (void)signal; over = 1; }
struct digest { unsigned long integer; vector floating; };
static __attribute__((noinline)) struct digest run(void) {
    unsigned long a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
    vector v = {1, 2, 3, 4, 5, 6, 7, 8}, w = {0.5, 0.25, 0.125, 0.75, 0.5, 0.375, 0.625, 0.875};
    for (int i = 0; i < 20000; i++) {
        a = a * 6364136223846793005ul + b; b ^= a >> 13; c += b * 31; d ^= c << 7; e += d; f = f * 33 ^ e;
        v = v * w + (vector){1, 1, 1, 1, 1, 1, 1, 1}; w = w * 0.999 + v * 0.0001;
    }
    return (struct digest){a ^ b ^ c ^ d ^ e ^ f, v + w};
}
static void *check(void *rounds) {
    struct digest first = run();
    while (!over) {
        struct digest next = run();
        if (first.integer != next.integer || memcmp(&first.floating, &next.floating, sizeof first.floating)) {
            printf("wrong\n"); fflush(stdout); _exit(1);
        }
        ++*(unsigned long *)rounds;
    }
    return 0;
}
int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    unsigned long rounds[64] = {0};
    pthread_t ids[64];
    signal(SIGTERM, end);
    for (int i = 1; i < threads; i++) pthread_create(&ids[i], 0, check, &rounds[i]);
    printf("ready\n"); fflush(stdout);
    check(&rounds[0]);
    for (int i = 1; i < threads; i++) pthread_join(ids[i], 0);
    printf("right\n");
    return 0;
}
"""

#: Makes one blocking call and says what it returned, its errno, and how many milliseconds it took.
BLOCK = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define SPAN 700
static const struct timespec span = {0, SPAN * 1000000l};
static char bytes[4096];
static void handler(int signal) { (void)signal; }
static double now(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
/* A child that does something after SPAN ms. */
#define LATER(what) began = now(); if (!fork()) { nanosleep(&span, 0); what; _exit(0); }
#define IS(name) if (!strcmp(argv[1], #name))
#define READY() printf("ready\n"); fflush(stdout); if (!began) began = now()
#define CALL(call) do { READY(); result = (call); error = errno; } while (0)
int main(int argc, char **argv) {
    double began = 0; long result = -99; int error = 0, ends[2], word = 0, status; struct timespec rest = {0, 0};
    (void)argc; struct timeval interval = {0, SPAN * 1000}; struct sigaction action = {.sa_handler = handler};
    sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1);
    IS(nanosleep) CALL(nanosleep(&span, &rest));
    IS(clock_nanosleep) CALL(clock_nanosleep(CLOCK_MONOTONIC, 0, &span, &rest));
    IS(syscall) CALL(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &span, &rest)); /* its number in a register */
    IS(poll) CALL(poll(0, 0, SPAN));
    IS(ppoll) CALL(ppoll(0, 0, &span, &set));
    IS(select) CALL(select(0, 0, 0, 0, &interval));
    IS(futex) CALL(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &span, 0, 0));
    IS(condwait) {
        pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
        struct timespec at; began = now(); clock_gettime(CLOCK_REALTIME, &at);
        at.tv_nsec += SPAN * 1000000l; at.tv_sec += at.tv_nsec / 1000000000; at.tv_nsec %= 1000000000;
        pthread_mutex_lock(&mutex);
        CALL(pthread_cond_timedwait(&cond, &mutex, &at));
    }
    IS(read) { pipe(ends); LATER(write(ends[1], "x", 1)) CALL(read(ends[0], bytes, 1)); }
    IS(wait4) { LATER() CALL(wait4(-1, &status, 0, 0) > 0); }
    IS(pause) { sigaction(SIGUSR1, &action, 0); pid_t me = getpid(); LATER(kill(me, SIGUSR1)) CALL(pause()); }
    IS(sigsuspend) {
        sigaction(SIGUSR1, &action, 0); sigprocmask(SIG_BLOCK, &set, 0); sigset_t none; sigemptyset(&none);
        pid_t me = getpid(); LATER(kill(me, SIGUSR1)) CALL(sigsuspend(&none));
        sigset_t after; sigprocmask(SIG_BLOCK, 0, &after); if (!sigismember(&after, SIGUSR1)) result = -50;
    }
    IS(msgrcv) {
        int queue = msgget(IPC_PRIVATE, 0600); struct { long type; char text[8]; } message = {1, "x"};
        LATER(msgsnd(queue, &message, 1, 0)) CALL(msgrcv(queue, &message, 8, 0, 0)); msgctl(queue, IPC_RMID, 0);
    }
    IS(inotify) {
        int fd = inotify_init(); char path[] = "/tmp/pagescan-inotify-XXXXXX"; int file = mkstemp(path);
        inotify_add_watch(fd, path, IN_MODIFY);
        LATER(write(file, "x", 1)) CALL(read(fd, bytes, sizeof bytes) > 0); unlink(path);
    }
    IS(timerfd) {
        int fd = timerfd_create(CLOCK_MONOTONIC, 0); struct itimerspec once = {{0, 0}, span};
        began = now(); timerfd_settime(fd, 0, &once, 0); CALL(read(fd, bytes, 8));
    }
    IS(eventfd) { int fd = eventfd(0, 0); LATER(eventfd_write(fd, 1)) CALL(read(fd, bytes, 8)); }
    IS(epoll_wait) { struct epoll_event event; CALL(epoll_wait(epoll_create1(0), &event, 1, SPAN)); }
    IS(epoll_pwait) { struct epoll_event event; CALL(epoll_pwait(epoll_create1(0), &event, 1, SPAN, &set)); }
    IS(recv) {
        socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &interval, sizeof interval);
        CALL(recv(ends[0], bytes, 1, 0));
    }
    IS(sigtimedwait) { sigprocmask(SIG_BLOCK, &set, 0); CALL(sigtimedwait(&set, 0, &span)); }
    IS(semtimedop) {
        int id = semget(IPC_PRIVATE, 1, 0600); struct sembuf down = {0, -1, 0};
        CALL(semtimedop(id, &down, 1, &span)); semctl(id, 0, IPC_RMID);
    }
    printf("%ld %d %.0f\n", result, result == -1 ? error : 0, now() - began);
    return 0;
}
"""

#: Counts queued signals, each with its value, while it spins.
SIGNALS = r"""
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
static volatile int count, sum, over;
static void queued(int signal, siginfo_t *info, void *context) {
    (void)signal; (void)context;
    if (info->si_code != SI_QUEUE) _exit(2);
    count++; sum += info->si_value.sival_int;
}
static void end(int signal) { (void)signal; over = 1; }
int main(void) {
    struct sigaction action = {.sa_sigaction = queued, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, 0); signal(SIGTERM, end);
    printf("ready\n"); fflush(stdout);
    while (!over) ;
    printf("%d %d\n", count, sum);
    return 0;
}
"""

#: Runs in a restartable sequence that only its abort can leave, and counts the aborts. SIGTERM asks for the verdict.
RSEQ = r"""
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/rseq.h>
static volatile sig_atomic_t over;
static void end(int signal) { (void)signal; over = 1; }
int main(void) {
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    unsigned long aborts = 0;
    if (!__rseq_size) { printf("none\n"); return 0; }
    signal(SIGTERM, end);
    printf("ready\n"); fflush(stdout);
    while (!over) {
        __asm__ volatile(
            ".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
            "9: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n .popsection\n"
            "leaq 9b(%%rip), %%rax\n movq %%rax, %0\n"
            "1: pause\n jmp 1b\n 2: nop\n"
            ".pushsection __rseq_failure, \"ax\"\n .byte 0x0f, 0xb9, 0x3d\n .long %c1\n"
            "4: jmp 5f\n .popsection\n"
            "5:\n"
            : "+m"(area->rseq_cs) : "i"(RSEQ_SIG) : "rax", "memory");
        aborts++;
    }
    printf("%s\n", aborts ? "aborted" : "not");
    return 0;
}
"""

#: Spins in a signal handler on a small alternative stack in the midst of other memory.
ALTSTACK = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static volatile sig_atomic_t over;
static char around[3][16384];
static void end(int signal) { (void)signal; over = 1; }
static void handler(int signal) {
    (void)signal; write(1, "ready\n", 6);
    while (!over) ;
}
int main(void) {
    memset(around, 7, sizeof around);
    stack_t stack = {.ss_sp = around[1], .ss_size = 8192}; sigaltstack(&stack, 0);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, 0); action.sa_handler = end; sigaction(SIGTERM, &action, 0);
    raise(SIGUSR1);
    for (int i = 0; i < 16384; i++) if (around[0][i] != 7 || around[2][i] != 7) { puts("wrong"); return 1; }
    puts("right");
    return 0;
}
"""

#: Threads on stacks mapped in one piece, each with a guard region at its lower end; or one thread that runs on
#: the few KiB of a coroutine in the midst of what lies below its own stack.
GUARDED = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#define SIZE (256 << 10)
#define FROM (SIZE / 2)
#define PAGE 4096
#define GUARD_INSTALL 102
static volatile sig_atomic_t over;
static int count;
static char *area;
static ucontext_t own, aside;
static void end(int signal) { (void)signal; over = 1; }
static void spin(void) { __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST); while (!over) ; }
static void *plain(void *unused) { (void)unused; spin(); return 0; }
static void *coroutine(void *unused) {
    (void)unused; getcontext(&aside);
    aside.uc_stack.ss_sp = area + FROM; aside.uc_stack.ss_size = PAGE; aside.uc_link = &own;
    makecontext(&aside, spin, 0); swapcontext(&own, &aside);
    return 0;
}
int main(int argc, char **argv) {
    int away = !strcmp(argv[1], "coroutine"), threads = away ? 1 : atoi(argv[2]); (void)argc;
    pthread_t ids[8]; pthread_attr_t attributes;
    sigset_t set; sigemptyset(&set); sigaddset(&set, SIGTERM); signal(SIGTERM, end);
    sigprocmask(SIG_BLOCK, &set, 0); /* a handler's frame would not fit on the coroutine's stack either */
    area = mmap(0, (away + threads) * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    for (int i = 0; i < away + threads; i++)
        if (i == 0 && away && !strcmp(argv[2], "none")) mprotect(area, PAGE, PROT_NONE);
        else madvise(area + i * SIZE, PAGE, GUARD_INSTALL);
    if (away) memset(area + PAGE, 7, SIZE - PAGE);
    for (int i = 0; i < threads; i++) {
        pthread_attr_init(&attributes); pthread_attr_setstack(&attributes, area + (away + i) * SIZE, SIZE);
        if (pthread_create(&ids[i], &attributes, away ? coroutine : plain, 0)) return 3;
    }
    sigprocmask(SIG_UNBLOCK, &set, 0);
    while (__atomic_load_n(&count, __ATOMIC_SEQ_CST) < threads) ;
    printf("ready\n"); fflush(stdout);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
    if (away) for (int i = PAGE; i < SIZE; i++)
        if ((i < FROM || i >= FROM + PAGE) && area[i] != 7) { puts("wrong"); return 1; }
    puts("right");
    return 0;
}
"""

#: Under a seccomp filter of the kind named; then as SPIN with a plain counter.
SECCOMP = r"""
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char byte; (void)argc;
    unsigned action = !strcmp(argv[1], "kill") ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (strcmp(argv[1], "strict") ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)
                                  : prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) return 3;
    write(1, "ready\n", 6);
    read(0, &byte, 1);
    write(1, "right\n", 6);
    syscall(SYS_exit, 0);
}
"""

#: A parent that waits in vfork() for as long as its input is open.
VFORK = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) {
    char byte;
    if (!vfork()) { write(1, "ready\n", 6); read(0, &byte, 1); _exit(0); }
    puts("right");
    return 0;
}
"""

#: A 32-bit program that needs no library: it waits in pause().
NARROW = r"""
void _start(void) {
    __asm__ volatile("int $0x80" : : "a"(4), "b"(1), "c"("ready\n"), "d"(6));
    for (;;) __asm__ volatile("int $0x80" : : "a"(29));
}
"""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="pagescan-targets-")
    os.chmod(folder.name, 0o755)
    return folder


@functools.cache
def build(source: str, *options: str) -> str:
    """The program made from a source; skips, by name, where it cannot be compiled."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile the program to attach to")
    output = str(Path(_folder().name) / f"target{len(os.listdir(_folder().name))}")
    done = subprocess.run(
        [compiler, "-O2", "-march=native", "-w", "-pthread", *options, "-x", "c", "-o", output, "-"],
        input=source,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        pytest.skip(f"gcc {' '.join(options)} cannot compile it: {done.stderr.strip().splitlines()[-1]}")
    return output


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A started program that has said "ready"; killed at the end if it still runs."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", f"{command[0]} said {line!r}"
        yield process
    finally:
        process.kill()
        process.communicate()


def python(program: str) -> tuple[str, ...]:
    """The command that runs a Python program which prints "ready"."""
    return (sys.executable, "-c", program)


def verdict(process: subprocess.Popen[str]) -> str:
    """What it says after SIGTERM; it must end by itself, with status 0."""
    process.terminate()
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0, f"status {process.returncode}, said {said!r}"
    return said.strip()


def wait_until_blocked(pid: int) -> None:
    """Return when the process sleeps."""
    wait_for_state(pid, "SD")


def wait_for_state(pid: int, states: str) -> None:
    """Return when the process is in one of these states (nothing tells of it, so it is asked)."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] in states:
                return
        time.sleep(0.001)
    raise AssertionError(f"{pid} does not come to be in state {states}")
