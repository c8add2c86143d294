/* What pagescan is measured against: the same work in C. Compiled by native.py when a bench begins.
 *
 * Every number of the kernel's interface is written out here: the headers of older distributions lack them, and the
 * baseline must not depend on pagescan's own. Source: include/uapi/linux/{fs,userfaultfd}.h, Linux 7.3.
 * Functions that can fail return -errno. Times are nanoseconds of CLOCK_MONOTONIC, taken around the work alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct region { uint64_t start, end, categories; };
struct scan_argument {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned;
};
#define SCAN _IOWR('f', 16, struct scan_argument)

struct uffd_api { uint64_t api, features, ioctls; };
struct uffd_register { uint64_t start, len, mode, ioctls; };
struct uffd_writeprotect { uint64_t start, len, mode; };
#define API _IOWR(0xAA, 0x3F, struct uffd_api)
#define REGISTER _IOWR(0xAA, 0x00, struct uffd_register)
#define WRITEPROTECT _IOWR(0xAA, 0x06, struct uffd_writeprotect)
enum { USER_MODE_ONLY = 1, WP_UNPOPULATED = 1 << 13, WP_ASYNC = 1 << 15, MODE_WP = 1 << 1 };

_Static_assert(sizeof(struct scan_argument) == 96 && SCAN == 0xC0606610, "struct pm_scan_arg");

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One walk over [start, end): calls of vec_len regions each until done, the answers one after another in vec. */
static int64_t walk(int fd, uint64_t start, uint64_t end, uint64_t flags, uint64_t mask, uint64_t returned,
                    struct region *vec, uint64_t vec_len, uint64_t room) {
    struct scan_argument argument = {.size = sizeof argument, .flags = flags, .start = start, .end = end,
                                     .vec_len = vec_len, .mask = mask, .returned = returned};
    uint64_t total = 0;
    while (argument.start < end) {
        if (total + vec_len > room)
            return -ENOBUFS;
        argument.vec = (uint64_t)(vec + total);
        int count = ioctl(fd, SCAN, &argument);
        if (count < 0)
            return -errno;
        total += count;
        if ((uint64_t)count < vec_len)
            break;
        uint64_t last = vec[total - 1].end;
        argument.start = argument.walk_end > last ? argument.walk_end : last;
    }
    return total;
}

/* The same walk `repeats` times; returns the number of regions of the last. */
int64_t scan(int fd, uint64_t start, uint64_t end, uint64_t flags, uint64_t mask, uint64_t returned,
             struct region *vec, uint64_t vec_len, uint64_t room, uint64_t repeats, int64_t *elapsed) {
    int64_t count = 0, began = now();
    for (uint64_t i = 0; i < repeats && count >= 0; i++)
        count = walk(fd, start, end, flags, mask, returned, vec, vec_len, room);
    *elapsed = now() - began;
    return count;
}

/* One call with buffers made once, `repeats` times: nothing but the ioctl is in the loop. */
int64_t call(int fd, uint64_t start, uint64_t end, uint64_t flags, uint64_t mask, uint64_t returned,
             struct region *vec, uint64_t vec_len, uint64_t repeats, int64_t *elapsed) {
    struct scan_argument argument = {.size = sizeof argument, .flags = flags, .start = start, .end = end,
                                     .vec = (uint64_t)vec, .vec_len = vec_len, .mask = mask, .returned = returned};
    int count = 0;
    int64_t began = now();
    for (uint64_t i = 0; i < repeats && count >= 0; i++)
        count = ioctl(fd, SCAN, &argument);
    *elapsed = now() - began;
    return count < 0 ? -errno : count;
}

/* What a mark's restore() does: find what was written to, copy each run back from `saved` (the copy of [start, end)),
 * protect again; with `compare`, compare each run as well. Returns the number of runs, or -errno. */
int64_t put_back(int fd, uint64_t start, uint64_t end, uint64_t mask, uint64_t flags, uint64_t protect,
                 const uint8_t *saved, struct region *vec, uint64_t vec_len, uint64_t room, int compare,
                 int64_t *elapsed) {
    int64_t began = now(), count = walk(fd, start, end, flags, mask, mask, vec, vec_len, room / 2);
    for (int64_t i = 0; i < count; i++)
        memcpy((void *)vec[i].start, saved + (vec[i].start - start), vec[i].end - vec[i].start);
    int64_t again = walk(fd, start, end, flags | protect, mask, mask, vec + room / 2, vec_len, room / 2);
    for (int64_t i = 0; compare && i < count; i++)
        if (memcmp((void *)vec[i].start, saved + (vec[i].start - start), vec[i].end - vec[i].start))
            return -EAGAIN;
    *elapsed = now() - began;
    return again < 0 ? again : count;
}

/* The copying alone, of runs that are known. Returns the time that took. */
int64_t copy_runs(uint64_t start, const uint8_t *saved, const struct region *runs, uint64_t count) {
    int64_t began = now();
    for (uint64_t i = 0; i < count; i++)
        memcpy((void *)runs[i].start, saved + (runs[i].start - start), runs[i].end - runs[i].start);
    return now() - began;
}

int open_userfaultfd(void) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
    if (fd < 0)
        return -errno;
    struct uffd_api api = {.api = 0xAA, .features = WP_UNPOPULATED | WP_ASYNC};
    if (ioctl(fd, API, &api) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int register_memory(int fd, uint64_t start, uint64_t length) {
    struct uffd_register argument = {.start = start, .len = length, .mode = MODE_WP};
    return ioctl(fd, REGISTER, &argument) < 0 ? -errno : 0;
}

int write_protect(int fd, uint64_t start, uint64_t length) {
    struct uffd_writeprotect argument = {.start = start, .len = length, .mode = 1};
    return ioctl(fd, WRITEPROTECT, &argument) < 0 ? -errno : 0;
}

/* Adds 1 to one byte of each page named; returns the time that took. */
int64_t write_pages(volatile uint8_t *base, const uint32_t *pages, uint64_t count, uint64_t page_size) {
    int64_t began = now();
    for (uint64_t i = 0; i < count; i++)
        base[pages[i] * page_size + 128]++;
    return now() - began;
}

/* The write barrier of old: mprotect, and a SIGSEGV handler that notes the page and opens it. */
static struct { uintptr_t base; uint64_t size, page_size; uint8_t *seen; struct sigaction before; } barrier;

static void on_fault(int signal, siginfo_t *info, void *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    (void)signal, (void)context;
    if (address - barrier.base >= barrier.size) {
        sigaction(SIGSEGV, &barrier.before, NULL); /* not ours: the fault comes again and meets its own handler */
        return;
    }
    uint64_t page = (address - barrier.base) / barrier.page_size;
    barrier.seen[page] = 1;
    if (mprotect((void *)(barrier.base + page * barrier.page_size), barrier.page_size, PROT_READ | PROT_WRITE))
        _exit(111); /* cannot go on: the write would fault for ever */
}

/* write_pages under that barrier; seen[] is one byte a page. Returns the time of the writes alone, or -errno. */
int64_t write_pages_mprotect(uint8_t *base, uint64_t size, const uint32_t *pages, uint64_t count, uint64_t page_size,
                             uint8_t *seen) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    barrier.base = (uintptr_t)base, barrier.size = size, barrier.page_size = page_size, barrier.seen = seen;
    memset(seen, 0, size / page_size);
    if (sigaction(SIGSEGV, &action, &barrier.before) || mprotect(base, size, PROT_READ))
        return -errno;
    int64_t elapsed = write_pages(base, pages, count, page_size);
    sigaction(SIGSEGV, &barrier.before, NULL);
    return mprotect(base, size, PROT_READ | PROT_WRITE) ? -errno : elapsed;
}
