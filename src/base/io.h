/* base/io.h — system calls on files with a fault point each.  Any thread.  Knows nothing above base.
 * They behave as the calls they are named after, but finish what was cut short (EINTR, short writes). */
#ifndef GLIA_BASE_IO_H
#define GLIA_BASE_IO_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

int glia_io_open(const char *path, int flags, mode_t mode);  /* always O_CLOEXEC; -1: errno */
bool glia_io_write(int fd, const void *p, size_t n);         /* all n bytes, or false: errno */
/* Writes from now on go past the page cache, or no longer: offset, length and memory must be whole blocks then, at most 4096
 * bytes each.  False: the file system cannot. */
bool glia_io_direct(int fd, bool on);
ssize_t glia_io_pread(int fd, void *p, size_t n, off_t off); /* n bytes unless the file ends first; -1: errno */
bool glia_io_sync(int fd);                                   /* data and metadata on stable storage */
bool glia_io_rename(const char *from, const char *to);
void *glia_io_map(int fd, size_t n); /* read-only, private; NULL: errno.  munmap(p, n) ends it */

/* Memory with a descriptor and no name: grows as it is written.  -1: errno (ENOSYS where the system has none). */
int glia_io_memory(const char *label);
bool glia_io_seal(int fd); /* nobody may change it any more, us included */

/* Fault injection: the n-th of these calls from now on (1-based), in any thread, fails once with ENOSPC.  0 disarms. */
void glia_fault_arm_io(long n);
bool glia_fault_io_fired(void);
/* Writes past the page cache fail with EINVAL, as on a file system with larger blocks. */
void glia_fault_refuse_direct(bool on);
#endif
