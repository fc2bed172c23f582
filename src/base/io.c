/* base/io.c — see io.h. */
#include "base/io.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_long fault_countdown; /* ≤ 0: disarmed */
static atomic_bool fault_fired;

void glia_fault_arm_io(long n) {
    atomic_store(&fault_fired, false);
    atomic_store(&fault_countdown, n);
}

bool glia_fault_io_fired(void) { return atomic_load(&fault_fired); }

static atomic_bool direct_refused;
void glia_fault_refuse_direct(bool on) { atomic_store(&direct_refused, on); }

static bool is_refused(int fd) {
#ifdef O_DIRECT
    if (!atomic_load_explicit(&direct_refused, memory_order_relaxed)) return false;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || !(flags & O_DIRECT)) return false;
    errno = EINVAL;
    return true;
#else
    return (void)fd, false;
#endif
}

static bool fault_here(void) {
    if (atomic_load_explicit(&fault_countdown, memory_order_relaxed) <= 0) return false;
    if (atomic_fetch_sub(&fault_countdown, 1) != 1) return false;
    atomic_store(&fault_fired, true);
    errno = ENOSPC;
    return true;
}

int glia_io_open(const char *path, int flags, mode_t mode) {
    if (fault_here()) return -1;
    int fd;
    do fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

bool glia_io_write(int fd, const void *p, size_t n) {
    if (fault_here() || is_refused(fd)) return false;
    for (const char *s = p; n;) {
        ssize_t k = write(fd, s, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            if (!k) errno = EIO;
            return false;
        }
        s += k, n -= (size_t)k;
    }
    return true;
}

bool glia_io_direct(int fd, bool on) {
#ifdef O_DIRECT
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && !fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
#else
    return (void)fd, !on;
#endif
}

ssize_t glia_io_pread(int fd, void *p, size_t n, off_t off) {
    if (fault_here()) return -1;
    size_t got = 0;
    while (got < n) {
        ssize_t k = pread(fd, (char *)p + got, n - got, off + (off_t)got);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return -1;
        if (!k) break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

bool glia_io_sync(int fd) {
    if (fault_here()) return false;
    int rc;
    do rc = fsync(fd);
    while (rc && errno == EINTR);
    return !rc;
}

bool glia_io_rename(const char *from, const char *to) { return !fault_here() && !rename(from, to); }

void *glia_io_map(int fd, size_t n) {
    if (fault_here()) return NULL;
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

int glia_io_memory(const char *label) {
    if (fault_here()) return -1;
#ifdef MFD_ALLOW_SEALING
    return memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
#else
    (void)label;
    errno = ENOSYS;
    return -1;
#endif
}

bool glia_io_seal(int fd) {
    if (fault_here()) return false;
#ifdef F_ADD_SEALS
    return !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
#else
    (void)fd;
    errno = ENOSYS;
    return false;
#endif
}
