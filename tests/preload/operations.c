/* Counts the changes of files below a folder, and kills the process or fails the call at one of them.

   A change is a call that opens for writing, writes, truncates, renames, removes, makes a folder or syncs. `operations_arm`
   starts the count in a process in which this library is preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FAIL, FAIL_FROM };

static char folder[PATH_MAX];
static size_t folder_length;
static long chosen;
static int action, error_number, record = -1;
static long count;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER; /* a line's number is its place in the file */

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

/* Arguments: the folder; the number of the operation, from 1; what to do at it; the error of a failed call; a file to
   which every operation is written as a line with the size of the file, or NULL. */
void operations_arm(const char *below, long at, int what, int error, const char *log) {
    snprintf(folder, sizeof folder, "%s", below);
    chosen = at, action = what, error_number = error;
    count = 0;
    record = log ? REAL(open)(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    folder_length = strlen(folder);
}

static int is_below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static void path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void resolve(int base, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    char parent[PATH_MAX];
    if (base == AT_FDCWD) {
        if (!getcwd(parent, sizeof parent)) parent[0] = 0;
    } else {
        path_of(base, parent);
    }
    if (snprintf(path, PATH_MAX, "%s/%s", parent, name) >= PATH_MAX) path[0] = 0;
}

/* Returns whether the call is to fail. Kills the process if it is to be killed; or sets `*late` if given, and the caller
   kills it. */
static int at(const char *name, const char *path, off_t size, int *late) {
    if (!is_below(path)) return 0;
    pthread_mutex_lock(&counting);
    long number = ++count;
    if (record >= 0) dprintf(record, "%ld %s %lld %s\n", number, name, (long long) size, path + folder_length);
    pthread_mutex_unlock(&counting);
    if (action == KILL && number == chosen) {
        if (late) return *late = 1, 0;
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if ((action == FAIL && number == chosen) || (action == FAIL_FROM && number >= chosen)) return errno = error_number, 1;
    return 0;
}

static int at_name(const char *name, int base, const char *path) {
    char whole[PATH_MAX];
    if (!folder_length) return 0;
    resolve(base, path, whole);
    return at(name, whole, -1, NULL);
}

static int at_file(const char *name, int file, int *late) {
    char whole[PATH_MAX];
    if (!folder_length || file == record) return 0;
    path_of(file, whole);
    struct stat status;
    return at(name, whole, fstat(file, &status) ? -1 : status.st_size, late);
}

static int open_at(int base, const char *path, int flags, va_list rest) {
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) && at_name("open", base, path)) return -1;
    return REAL(openat)(base, path, flags, mode);
}

#define OPEN(name, base, ...)                                                                              \
    int name(__VA_ARGS__ const char *path, int flags, ...) {                                               \
        va_list rest;                                                                                      \
        va_start(rest, flags);                                                                             \
        int file = open_at(base, path, flags, rest);                                                       \
        va_end(rest);                                                                                      \
        return file;                                                                                       \
    }
#define BASE int base,
OPEN(open, AT_FDCWD)
OPEN(open64, AT_FDCWD)
OPEN(openat, base, BASE)
OPEN(openat64, base, BASE)

/* A process is killed in the middle of a write, after half of the bytes. */
#define WRITE(half, whole)                                                                                 \
    int late = 0;                                                                                          \
    if (at_file("write", file, &late)) return -1;                                                          \
    if (!late) return whole;                                                                               \
    ssize_t written = half;                                                                                \
    kill(getpid(), SIGKILL);                                                                               \
    return written

ssize_t write(int file, const void *bytes, size_t size) {
    WRITE(REAL(write)(file, bytes, size / 2), REAL(write)(file, bytes, size));
}
ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) {
    WRITE(REAL(pwrite)(file, bytes, size / 2, offset), REAL(pwrite)(file, bytes, size, offset));
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) { return pwrite(file, bytes, size, offset); }
ssize_t writev(int file, const struct iovec *parts, int number) {
    WRITE(REAL(writev)(file, parts, number / 2), REAL(writev)(file, parts, number));
}

int ftruncate(int file, off_t size) { return at_file("truncate", file, NULL) ? -1 : REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }
int fsync(int file) { return at_file("fsync", file, NULL) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return at_file("fsync", file, NULL) ? -1 : REAL(fdatasync)(file); }

int renameat(int from_base, const char *from, int to_base, const char *to) {
    return at_name("rename", to_base, to) ? -1 : REAL(renameat)(from_base, from, to_base, to);
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
int unlinkat(int base, const char *path, int flags) {
    return at_name(flags & AT_REMOVEDIR ? "rmdir" : "unlink", base, path) ? -1 : REAL(unlinkat)(base, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int base, const char *path, mode_t mode) {
    return at_name("mkdir", base, path) ? -1 : REAL(mkdirat)(base, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
