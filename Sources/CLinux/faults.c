#include "CLinux.h"
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

// Everything here may run in a signal handler: system calls and bytes only.

static int code;

static void say(const char *text, size_t count) {
  while (count > 0) {
    ssize_t done = write(STDERR_FILENO, text, count);
    if (done <= 0) return;
    text += done;
    count -= (size_t)done;
  }
}

static uintptr_t hexadecimal(const char **text) {
  uintptr_t value = 0;
  for (;; (*text)++) {
    char c = **text;
    if (c >= '0' && c <= '9') value = value << 4 | (uintptr_t)(c - '0');
    else if (c >= 'a' && c <= 'f') value = value << 4 | (uintptr_t)(c - 'a' + 10);
    else return value;
  }
}

/// Prints the path of a line of /proc/self/maps where the address lies in its range: "START-END MODE OFFSET DEVICE INODE PATH".
static int say_path(const char *line, uintptr_t address) {
  uintptr_t start = hexadecimal(&line);
  if (*line++ != '-') return 0;
  uintptr_t end = hexadecimal(&line);
  if (address < start || address >= end) return 0;
  const char *path = strchr(line, '/');
  if (!path) return 0;
  say(path, strlen(path));
  return 1;
}

static void say_file(uintptr_t address) {
  static char line[4096 + 256], bytes[4096];
  size_t count = 0;
  int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  for (ssize_t read_count; file >= 0 && (read_count = read(file, bytes, sizeof bytes)) > 0;) {
    for (ssize_t i = 0; i < read_count; i++) {
      if (bytes[i] != '\n') {
        if (count < sizeof line - 1) line[count++] = bytes[i];
        continue;
      }
      line[count] = 0;
      count = 0;
      if (say_path(line, address)) return;
    }
  }
  say("a mapped file", 13);
}

static void report(int number, siginfo_t *info, void *context) {
  (void)context;
  // Sent by another process, or no fault of a file: as without us.
  if (info->si_code <= 0) {
    signal(number, SIG_DFL);
    raise(number);
    return;
  }
  static const char after[] = ": cannot be read any more: the file became shorter while it was in use, or its disk failed."
      " What is done is kept; put the file back, then run the same command again.\n";
  say("espalier: ", 10);
  say_file((uintptr_t)info->si_addr);
  say(after, sizeof after - 1);
  _exit(code);
}

void espalier_report_faults(int exit_code) {
  code = exit_code;
  struct sigaction action = {0};
  action.sa_sigaction = report;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, NULL);
}
