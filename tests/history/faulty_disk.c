/* Preloaded (LD_PRELOAD) into a process to make a folder fail or hang.
 *
 * FAULT_FOLDER: the folder. FAULT_CONTROL: a file of 4 bytes, an int that a test changes while the process runs:
 * 0 no fault, an errno that every call on the folder returns, or -1 to hang until it changes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static volatile int *control;
static const char *folder;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("FAULT_CONTROL");
    folder = getenv("FAULT_FOLDER");
    if (path == NULL || folder == NULL) return;
    int descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (descriptor < 0) return;
    void *page = mmap(NULL, sizeof(int), PROT_READ, MAP_SHARED, descriptor, 0);
    if (page != MAP_FAILED) control = page;
    close(descriptor);
}

/* Return whether the call fails, with errno set; hang as long as the control file says so. */
static int fails(const char *path) {
    if (control == NULL || *control == 0 || path == NULL || strncmp(path, folder, strlen(folder)) != 0) return 0;
    while (*control == -1) usleep(5000);
    if (*control == 0) return 0;
    errno = *control;
    return 1;
}

static int descriptor_fails(int descriptor) {
    if (control == NULL || *control == 0) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                    \
    int name(const char *path, int flags, ...) {                      \
        va_list arguments;                                            \
        va_start(arguments, flags);                                   \
        mode_t mode = va_arg(arguments, mode_t);                      \
        va_end(arguments);                                            \
        return fails(path) ? -1 : REAL(name)(path, flags, mode);      \
    }
OPEN(open)
OPEN(open64)

#define ON_PATH(name, parameters, arguments) \
    int name parameters { return fails(path) ? -1 : REAL(name) arguments; }
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(stat, (const char *restrict path, struct stat *restrict found), (path, found))
ON_PATH(stat64, (const char *restrict path, struct stat64 *restrict found), (path, found))
ON_PATH(lstat, (const char *restrict path, struct stat *restrict found), (path, found))
ON_PATH(lstat64, (const char *restrict path, struct stat64 *restrict found), (path, found))
ON_PATH(access, (const char *path, int mode), (path, mode))

#define ON_DESCRIPTOR(type, name, parameters, arguments) \
    type name parameters { return descriptor_fails(descriptor) ? -1 : REAL(name) arguments; }
ON_DESCRIPTOR(ssize_t, pread, (int descriptor, void *to, size_t size, off_t at), (descriptor, to, size, at))
ON_DESCRIPTOR(ssize_t, pread64, (int descriptor, void *to, size_t size, off64_t at), (descriptor, to, size, at))
ON_DESCRIPTOR(ssize_t, pwrite, (int descriptor, const void *from, size_t size, off_t at), (descriptor, from, size, at))
ON_DESCRIPTOR(ssize_t, pwrite64, (int descriptor, const void *from, size_t size, off64_t at), (descriptor, from, size, at))
ON_DESCRIPTOR(int, fsync, (int descriptor), (descriptor))
ON_DESCRIPTOR(int, fdatasync, (int descriptor), (descriptor))
