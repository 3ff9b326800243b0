/* Calls into the C library that fail when they are told to; preloaded into a process that runs made_fast.
 *
 * faults_arm(kinds, first, last, how, error, least) counts calls of the kinds in the bit set, from 1; calls number first..last
 * fail. Until then, and after faults_disarm(), every call does what it always does. Calls for memory of less than `least`
 * bytes are neither counted nor failed. faults_disarm() returns how many calls were counted; faults_struck() how many failed.
 * faults_order() returns one letter for each counted call, in order. faults_tell() has a crash print its C stack to stderr, so
 * that one can see whose it is.
 *
 * Not here: calls that libc makes inside itself (they do not pass through these names), system calls made without libc. Built
 * for glibc on Linux: the memory functions need its __libc_malloc and so on, for dlsym wants memory before it can be asked.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE, READ, OPEN, CLOSE, FSYNC, RENAME, UNLINK, CHMOD, LOCK, STAT, SCAN, MAP, MEMORY, THREAD };
static const char LETTERS[] = "wrocsnuklidmat";

/* FAIL: errno is `error`. PART: half of the bytes, at least one. NOTHING: 0, the end of the file. KILL: the process is killed
 * before the call. TEAR: the process is killed after half of the bytes. AFTER: the call is made, and reported as failed. */
enum { FAIL, PART, NOTHING, KILL, TEAR, AFTER };

static atomic_int armed;
static unsigned kinds_;
static long first_, last_;
static int how_, error_;
static size_t least_;
static atomic_long seen, struck;
static char order_[1 << 16];

void faults_arm(unsigned kinds, long first, long last, int how, int error, size_t least) {
    kinds_ = kinds, first_ = first, last_ = last, how_ = how, error_ = error, least_ = least;
    atomic_store(&seen, 0);
    atomic_store(&struck, 0);
    atomic_store(&armed, 1);
}

long faults_disarm(void) {
    atomic_store(&armed, 0);
    return atomic_load(&seen);
}

long faults_struck(void) { return atomic_load(&struck); }

const char *faults_order(void) {
    long n = atomic_load(&seen), most = (long)sizeof order_ - 1;
    order_[n < most ? n : most] = 0;
    return order_;
}

static void tell(int number) {
    void *frames[60];
    backtrace_symbols_fd(frames, backtrace(frames, 60), 2);
    signal(number, SIG_DFL);
    raise(number);
}

void faults_tell(void) {
    void *frame;
    backtrace(&frame, 1); /* the first call takes memory */
    for (const int *number = (const int[]){SIGSEGV, SIGBUS, SIGABRT, SIGFPE, 0}; *number; number++) signal(*number, tell);
}

/* Returns whether this call is one that must not go well. */
static int strikes(int kind) {
    if (!atomic_load_explicit(&armed, memory_order_acquire) || !(kinds_ >> kind & 1)) return 0;
    long n = atomic_fetch_add(&seen, 1) + 1;
    if (n < (long)sizeof order_) order_[n - 1] = LETTERS[kind];
    if (n < first_ || n > last_) return 0;
    atomic_fetch_add(&struck, 1);
    if (how_ == KILL) kill(getpid(), SIGKILL);
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define FAILED(value) return errno = error_, (value)

ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(write);
    if (!strikes(WRITE)) return real(fd, bytes, n);
    if (how_ == FAIL) FAILED(-1);
    ssize_t done = real(fd, bytes, n > 1 ? n / 2 : n);
    if (how_ == TEAR) kill(getpid(), SIGKILL);
    return done;
}

ssize_t read(int fd, void *bytes, size_t n) {
    REAL(read);
    if (!strikes(READ)) return real(fd, bytes, n);
    if (how_ == FAIL) FAILED(-1);
    return how_ == NOTHING ? 0 : real(fd, bytes, n > 1 ? n / 2 : n);
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define OPENS(name, parameters, arguments) \
    int name parameters { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        REAL(name); \
        if (strikes(OPEN)) FAILED(-1); \
        return real arguments; \
    }
OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENS(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

#define FAILS(type, name, parameters, arguments, kind, value) \
    type name parameters { \
        REAL(name); \
        if (strikes(kind)) { \
            if (how_ == AFTER) real arguments; \
            FAILED(value); \
        } \
        return real arguments; \
    }
FAILS(int, close, (int fd), (fd), CLOSE, -1)
FAILS(int, fsync, (int fd), (fd), FSYNC, -1)
FAILS(int, rename, (const char *from, const char *to), (from, to), RENAME, -1)
FAILS(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), RENAME, -1)
FAILS(int, unlink, (const char *path), (path), UNLINK, -1)
FAILS(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), UNLINK, -1)
FAILS(int, fchmod, (int fd, mode_t mode), (fd, mode), CHMOD, -1)
FAILS(int, fstat, (int fd, struct stat *status), (fd, status), STAT, -1)
FAILS(int, fstat64, (int fd, struct stat64 *status), (fd, status), STAT, -1)
FAILS(int, stat, (const char *path, struct stat *status), (path, status), STAT, -1)
FAILS(int, stat64, (const char *path, struct stat64 *status), (path, status), STAT, -1)
FAILS(int, flock, (int fd, int how), (fd, how), LOCK, -1)
FAILS(DIR *, opendir, (const char *path), (path), SCAN, NULL)
FAILS(void *, mmap, (void *at, size_t n, int protection, int flags, int fd, off_t offset), (at, n, protection, flags, fd, offset),
      MAP, MAP_FAILED)
FAILS(void *, mmap64, (void *at, size_t n, int protection, int flags, int fd, off64_t offset),
      (at, n, protection, flags, fd, offset), MAP, MAP_FAILED)

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    REAL(pthread_create);
    if (strikes(THREAD)) return error_;
    return real(thread, attributes, start, argument);
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int starves(size_t n) { return n >= least_ && strikes(MEMORY); }

#define STARVES(name, real, parameters, arguments, n) \
    void *name parameters { \
        if (starves(n)) FAILED(NULL); \
        return real arguments; \
    }
STARVES(malloc, __libc_malloc, (size_t n), (n), n)
STARVES(calloc, __libc_calloc, (size_t n, size_t size), (n, size), size && n > SIZE_MAX / size ? SIZE_MAX : n * size)
STARVES(realloc, __libc_realloc, (void *old, size_t n), (old, n), n)
STARVES(aligned_alloc, __libc_memalign, (size_t alignment, size_t n), (alignment, n), n)

int posix_memalign(void **found, size_t alignment, size_t n) {
    if (starves(n)) return error_;
    *found = __libc_memalign(alignment, n);
    return *found ? 0 : ENOMEM;
}
