// Harms one system call of a program: LD_PRELOAD=shim.so FAULT="CALLS:N:ACTION:PATH" program.
//
// CALLS   names of libc functions, with commas between (pwrite,fsync,rename), or `changes`: all that change a disk
// N       which of them, from 1; `N+` for that one and all after it
// ACTION  kill (SIGKILL before the call), tear (half of a write, then SIGKILL), short (half of a read or write),
//         none, or the name of an error number (ENOSPC, EIO, ...) with which the call fails
// PATH    only calls on paths that hold this text; may be left out
//
// FAULT_LOG=FILE writes a line for each call that counts: its number, its name, its path.
// FAULT_CLOCK=SECONDS is added to the time of day.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHANGES ",open+,pwrite,copy_file_range,ftruncate,fsync,rename,mkdir,unlink,rmdir,"

enum action { GO_ON, FAIL, KILL, TEAR, SHORT };

static struct {
  char calls[256];
  char path[512];
  long first;
  int repeats;
  enum action action;
  int number;
  int log;
  atomic_long seen;
} fault;

static const struct { const char *name; int number; } errors[] = {
    {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EFBIG", EFBIG}, {"EIO", EIO}, {"EINTR", EINTR},
    {"EACCES", EACCES}, {"EPERM", EPERM}, {"EROFS", EROFS}, {"EMFILE", EMFILE}, {"ENFILE", ENFILE},
    {"ENOMEM", ENOMEM}, {"ENOENT", ENOENT}, {"EXDEV", EXDEV}, {"EINVAL", EINVAL}, {"ENOLCK", ENOLCK},
    {"EOPNOTSUPP", EOPNOTSUPP}, {"ESTALE", ESTALE},
};

static _Noreturn void misuse(const char *why) {
  dprintf(2, "shim: %s in FAULT\n", why);
  _exit(99);
}

__attribute__((constructor)) static void begin(void) {
  const char *text = getenv("FAULT");
  const char *log = getenv("FAULT_LOG");
  fault.log = log ? (int)open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
  if (!text) return;
  char copy[1024];
  snprintf(copy, sizeof copy, "%s", text);
  char *rest = copy;
  char *calls = strsep(&rest, ":"), *number = strsep(&rest, ":"), *action = strsep(&rest, ":");
  if (!number || !action) misuse("a part is missing");
  if (strcmp(calls, "changes") == 0) snprintf(fault.calls, sizeof fault.calls, CHANGES);
  else snprintf(fault.calls, sizeof fault.calls, ",%.250s,", calls);
  if (rest) snprintf(fault.path, sizeof fault.path, "%s", rest);
  char *end;
  fault.first = strtol(number, &end, 10);
  fault.repeats = *end == '+';
  if (strcmp(action, "none") == 0) return;
  else if (strcmp(action, "kill") == 0) fault.action = KILL;
  else if (strcmp(action, "tear") == 0) fault.action = TEAR;
  else if (strcmp(action, "short") == 0) fault.action = SHORT;
  else {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
      if (strcmp(action, errors[i].name) == 0) fault.action = FAIL, fault.number = errors[i].number;
    if (fault.action != FAIL) misuse("an unknown action");
  }
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/// Whether this call is harmed, and how; dies here where that is the harm.
static enum action harm(const char *name, const char *path) {
  if (!fault.calls[0]) return GO_ON;
  char wanted[64];
  snprintf(wanted, sizeof wanted, ",%s,", name);
  if (!strstr(fault.calls, wanted)) return GO_ON;
  if (fault.path[0] && !strstr(path, fault.path)) return GO_ON;
  long place = atomic_fetch_add(&fault.seen, 1) + 1;
  if (fault.log >= 0) dprintf(fault.log, "%ld %s %s\n", place, name, path);
  if (place != fault.first && !(fault.repeats && place > fault.first)) return GO_ON;
  if (fault.action == KILL) die();
  if (fault.action == FAIL) errno = fault.number;
  return fault.action;
}

/// The same for a call on an open file.
static enum action harm_open(const char *name, int file) {
  if (!fault.calls[0]) return GO_ON;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  int before = errno;
  ssize_t count = readlink(link, path, sizeof path - 1);
  errno = before;
  path[count > 0 ? count : 0] = 0;
  return harm(name, path);
}

#define REAL(result, name, ...) \
  static result (*real)(__VA_ARGS__); \
  if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

// Bytes of a harmed transfer: half of them, at least one.
static size_t half(size_t count) { return count > 1 ? count / 2 : count; }

#define TRANSFER(symbol, type, call, harmed) \
  { \
    enum action action = harm_open(harmed, file); \
    if (action == FAIL) return -1; \
    if (action == SHORT || action == TEAR) count = half(count); \
    type result = call; \
    if (action == TEAR) die(); \
    return result; \
  }

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
  REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
  TRANSFER(pwrite, ssize_t, real(file, bytes, count, offset), "pwrite")
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  TRANSFER(pwrite64, ssize_t, real(file, bytes, count, offset), "pwrite")
}

ssize_t write(int file, const void *bytes, size_t count) {
  REAL(ssize_t, "write", int, const void *, size_t);
  TRANSFER(write, ssize_t, real(file, bytes, count), "write")
}

ssize_t pread(int file, void *bytes, size_t count, off_t offset) {
  REAL(ssize_t, "pread", int, void *, size_t, off_t);
  TRANSFER(pread, ssize_t, real(file, bytes, count, offset), "pread")
}

ssize_t pread64(int file, void *bytes, size_t count, off64_t offset) {
  REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
  TRANSFER(pread64, ssize_t, real(file, bytes, count, offset), "pread")
}

ssize_t copy_file_range(int in, off64_t *in_offset, int file, off64_t *out_offset, size_t count, unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  TRANSFER(copy_file_range, ssize_t, real(in, in_offset, file, out_offset, count, flags), "copy_file_range")
}

#define ON_FILE(symbol, harmed, parameters, call, ...) \
  int symbol parameters { \
    REAL(int, #symbol, __VA_ARGS__); \
    return harm_open(harmed, file) == FAIL ? -1 : call; \
  }

ON_FILE(fsync, "fsync", (int file), real(file), int)
ON_FILE(fdatasync, "fsync", (int file), real(file), int)
ON_FILE(ftruncate, "ftruncate", (int file, off_t size), real(file, size), int, off_t)
ON_FILE(ftruncate64, "ftruncate", (int file, off64_t size), real(file, size), int, off64_t)
ON_FILE(flock, "flock", (int file, int operation), real(file, operation), int, int)

#define ON_PATH(symbol, parameters, call, ...) \
  int symbol parameters { \
    REAL(int, #symbol, __VA_ARGS__); \
    return harm(#symbol, path) == FAIL ? -1 : call; \
  }

ON_PATH(mkdir, (const char *path, mode_t mode), real(path, mode), const char *, mode_t)
ON_PATH(unlink, (const char *path), real(path), const char *)
ON_PATH(rmdir, (const char *path), real(path), const char *)
ON_PATH(rename, (const char *old, const char *path), real(old, path), const char *, const char *)

static long clock_shift(void) {
  const char *text = getenv("FAULT_CLOCK");
  return text ? atol(text) : 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(int, "clock_gettime", clockid_t, struct timespec *);
  int result = real(clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec += clock_shift();
  return result;
}

DIR *opendir(const char *path) {
  REAL(DIR *, "opendir", const char *);
  return harm("opendir", path) == FAIL ? NULL : real(path);
}

static int harmed_open(const char *symbol, const char *path, int flags, mode_t mode) {
  int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, symbol);
  // `open` counts all, `open+` those that may create a file.
  if (harm("open", path) == FAIL) return -1;
  if ((flags & O_CREAT) && harm("open+", path) == FAIL) return -1;
  return real(path, flags, mode);
}

static mode_t mode_of(int flags, va_list list) {
  return flags & O_CREAT ? va_arg(list, mode_t) : 0;
}

#define OPEN(symbol) \
  int symbol(const char *path, int flags, ...) { \
    va_list list; \
    va_start(list, flags); \
    mode_t mode = mode_of(flags, list); \
    va_end(list); \
    return harmed_open(#symbol, path, flags, mode); \
  }

OPEN(open)
OPEN(open64)

void *mmap(void *address, size_t count, int protection, int flags, int file, off_t offset) {
  REAL(void *, "mmap", void *, size_t, int, int, int, off_t);
  if (file >= 0 && harm_open("mmap", file) == FAIL) return MAP_FAILED;
  return real(address, count, protection, flags, file, offset);
}
