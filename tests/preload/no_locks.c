/* Replaces the system's calls for locks and fsync by ones that it does not have. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
int flock(int file, int operation) { errno = ENOSYS; return -1; }
int fsync(int file) { errno = ENOSYS; return -1; }
int fcntl(int file, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int locks[] = {F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW};
    for (int i = 0; i < 4; i++) if (command == locks[i]) { errno = ENOSYS; return -1; }
    return ((int (*)(int, int, ...)) dlsym(RTLD_NEXT, "fcntl"))(file, command, argument);
}
int fcntl64(int file, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return fcntl(file, command, argument);
}
