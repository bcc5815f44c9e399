/* Put before a server by LD_PRELOAD: sets its clock off, and fills its disk, by two numbers in the
 * file that UMBEL_SHIM names: seconds to add to the time, and whether files can not be written. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *wanted(void) {
    static volatile long nothing[2], *found;
    if (!found) {
        int fd = open(getenv("UMBEL_SHIM"), O_RDONLY);
        void *at = mmap(NULL, sizeof nothing, PROT_READ, MAP_SHARED, fd, 0);
        found = at == MAP_FAILED ? nothing : at;
    }
    return found;
}

int clock_gettime(clockid_t clock, struct timespec *ts) {
    int failed = syscall(SYS_clock_gettime, clock, ts);
    if (!failed && clock == CLOCK_REALTIME) ts->tv_sec += wanted()[0];
    return failed;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
    struct timespec ts;
    (void)tz;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (t) *t = ts.tv_sec;
    return ts.tv_sec;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    struct stat file;
    if (wanted()[1] && fstat(fd, &file) == 0 && S_ISREG(file.st_mode)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, fd, bytes, count);
}
