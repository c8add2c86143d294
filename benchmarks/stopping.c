/* What attach is measured against: the same requests of ptrace(2) from a small program, on x86-64 only; and a target
 * that measures for itself how long it could not run. Compiled by attaching.py.
 *
 *   stopping trace PID RETURNING RESTORER   for each line on stdin: have PID make a userfaultfd as pagescan does, in
 *                                           the form that survives the tracer, and print the nanoseconds from asking
 *                                           it to stop until it is let go. The addresses are those of `syscall; ret`
 *                                           and of libc's call of rt_sigreturn, in PID.
 *   stopping watch FILE                     look at the clock for ever; the first 8 bytes of FILE are the longest time
 *                                           between two looks so far, in nanoseconds.
 *
 * Left out are pagescan's checks: whether a signal is due, what kind of memory the stack is.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

enum { GET_RSEQ = 0x420f, GET_MASK = 0x420a, SET_MASK = 0x420b, USERFAULTFD = 323, PIDFD_GETFD = 438 };
enum { RED_ZONE = 128, STATE_AT = 448, IN_STATE = 464, ROOM = 1 << 14 };

static pid_t pid;
static uint64_t frame[ROOM / 8];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void check(int64_t result, const char *what) {
    if (result >= 0)
        return;
    perror(what);
    exit(1);
}

static void request(long number, uint64_t address, const void *data) {
    check(syscall(SYS_ptrace, number, pid, address, data), "ptrace");
}

static void await(void) {
    siginfo_t info = {0};
    while (!info.si_pid) {
        check(waitid(P_PID, pid, &info, WSTOPPED | WNOHANG | __WALL), "waitid");
        if (!info.si_pid)
            sched_yield();
    }
}

static void registers(long number, struct user_regs_struct *all) {
    struct iovec ours = {all, sizeof *all};
    request(number, NT_PRSTATUS, &ours);
}

/* The registers that bring it back, as pagescan's frame has them: the call made again by hand. */
static struct user_regs_struct back(struct user_regs_struct found, int interrupted) {
    if (interrupted) {
        found.rax = found.orig_rax;
        found.rip -= 2;
    }
    return found;
}

static uint64_t write_frame(const struct user_regs_struct *found, struct user_regs_struct r, uint64_t mask,
                            uint64_t restorer) {
    char *state = (char *)frame + STATE_AT;
    struct iovec ours = {state, ROOM - STATE_AT - 64};
    request(PTRACE_GETREGSET, NT_X86_XSTATE, &ours);
    uint32_t size = ours.iov_len, marks[12] = {0x46505853, size + 4, 0, 0, size}, end = 0x46505845;
    memcpy(marks + 2, state + IN_STATE, 8);
    memcpy(state + IN_STATE, marks, sizeof marks);
    memcpy(state + size, &end, 4);
    uint64_t state_at = (found->rsp - RED_ZONE - size - 4) & ~63ull, address = state_at - STATE_AT;
    uint64_t head[] = {restorer, 7, 0, 0, 0x100, 0, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi,
                       r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp, r.rip, r.eflags,
                       (r.cs & 0xffff) | (r.ss & 0xffff) << 48, 0, 0, 0, 0, state_at};
    memcpy(frame, head, sizeof head);
    frame[38] = mask;
    ours = (struct iovec){frame, STATE_AT + size + 4};
    struct iovec theirs = {(void *)address, ours.iov_len};
    check(process_vm_writev(pid, &ours, 1, &theirs, 1, 0), "process_vm_writev");
    return address;
}

static void call(struct user_regs_struct r, uint64_t at, uint64_t stack, uint64_t number, uint64_t argument) {
    r.rip = at, r.rsp = stack, r.rax = number, r.rdi = argument, r.orig_rax = -1;
    registers(PTRACE_SETREGSET, &r);
}

static int64_t attach(int pidfd, uint64_t returning, uint64_t restorer) {
    struct { uint64_t area; uint32_t rest[4]; } rseq = {0};
    uint64_t mask, all = ~0ull, mark;
    char text[12];
    struct user_regs_struct found, r;
    int awake = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
    if (awake >= 0)
        check(write(awake, &(int32_t){0}, 4), "cpu_dma_latency");
    request(PTRACE_SEIZE, 0, (void *)PTRACE_O_TRACESYSGOOD);
    int64_t began = now();
    request(PTRACE_INTERRUPT, 0, NULL);
    await();
    registers(PTRACE_GETREGSET, &found);
    int inside = (int64_t)found.orig_rax >= 0;
    int interrupted = inside && (int64_t)found.rax <= -512 && (int64_t)found.rax >= -516;
    if (!inside)
        request(GET_RSEQ, sizeof rseq, &rseq);
    struct iovec here[] = {{text, sizeof text}, {&mark, 8}};
    struct iovec there[] = {{(void *)returning, 3}, {(void *)restorer, 9}, {(void *)(rseq.area + 8), 8}};
    check(process_vm_readv(pid, here, 2, there, rseq.area ? 3 : 2, 0), "process_vm_readv");
    if (memcmp(text, "\x0f\x05\xc3", 3))
        exit(1);
    request(GET_MASK, 8, &mask);
    uint64_t stack = write_frame(&found, back(found, interrupted), mask, restorer);
    call(found, returning, stack, USERFAULTFD, O_CLOEXEC | O_NONBLOCK | 1);
    request(SET_MASK, 8, &all);
    for (int i = 0; i < 2; i++) {
        request(PTRACE_SYSCALL, 0, NULL);
        await();
    }
    registers(PTRACE_GETREGSET, &r);
    int ours = syscall(PIDFD_GETFD, pidfd, (int)r.rax, 0);
    check(ours, "pidfd_getfd");
    call(found, returning, stack, SYS_close, r.rax);
    if (interrupted) {
        request(PTRACE_SYSCALL, 0, NULL);
        await();
        request(PTRACE_INTERRUPT, 0, NULL);
        request(PTRACE_CONT, 0, NULL);
        await();
        request(SET_MASK, 8, &mask);
        registers(PTRACE_SETREGSET, &found);
    }
    int64_t took = now() - began;
    request(PTRACE_DETACH, 0, NULL);
    close(ours);
    if (awake >= 0)
        close(awake);
    return took;
}

static void watch(const char *path) {
    int fd = open(path, O_RDWR);
    check(fd, path);
    volatile int64_t *longest = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    puts("ready");
    fflush(stdout);
    for (int64_t last = now(), next;; last = next) {
        next = now();
        if (next - last > *longest)
            *longest = next - last;
    }
}

int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "watch"))
        watch(words[2]);
    if (count != 5)
        return 2;
    pid = atoi(words[2]);
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    check(pidfd, "pidfd_open");
    for (int line; (line = getchar()) != EOF;) {
        printf("%lld\n", (long long)attach(pidfd, strtoull(words[3], NULL, 0), strtoull(words[4], NULL, 0)));
        fflush(stdout);
    }
}
