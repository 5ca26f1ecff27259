/* Counts a program's heap allocations from outside it.
 *
 * Built as a shared object and put before the C library with LD_PRELOAD, it adds one to a counter
 * in the file that CALLBOARD_ALLOCATIONS names for every call that hands out memory (a realloc is
 * one), and the bytes asked for to a second. The file is mapped by the program and all of its
 * children, so that one look at it sums them up. Needs glibc, for its __libc_* names; sees
 * nothing of a program that brings its own allocator.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

struct counters {
    atomic_ulong calls, bytes;
};

/* Where counts go until the file is mapped. */
static struct counters early;
static struct counters *counters = &early;

__attribute__((constructor)) static void map_counters(void) {
    const char *path = getenv("CALLBOARD_ALLOCATIONS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        counters = map;
}

static void count(size_t bytes) {
    atomic_fetch_add_explicit(&counters->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->bytes, bytes, memory_order_relaxed);
}

void *malloc(size_t size) {
    count(size);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(number * size);
    return __libc_calloc(number, size);
}

void *realloc(void *block, size_t size) {
    count(size);
    return __libc_realloc(block, size);
}

void *memalign(size_t alignment, size_t size) {
    count(size);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return memalign(alignment, size);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    void *memory = memalign(alignment, size);
    if (memory == NULL)
        return ENOMEM;
    *block = memory;
    return 0;
}
