// Preloaded, it stands in for a file system that lacks something: FAKE_FLOCK is the error number that every file lock is refused
// with, FAKE_FSYNC that of flushing a folder. Everything else is the system's.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refuses(const char *variable) {
    const char *number = getenv(variable);
    if (number) errno = atoi(number);
    return number != NULL;
}

int flock(int file, int operation) {
    return refuses("FAKE_FLOCK") ? -1 : (int)syscall(SYS_flock, file, operation);
}

int fsync(int file) {
    struct stat data;
    int is_folder = fstat(file, &data) == 0 && S_ISDIR(data.st_mode);
    return is_folder && refuses("FAKE_FSYNC") ? -1 : (int)syscall(SYS_fsync, file);
}
