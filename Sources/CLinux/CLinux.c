#define _GNU_SOURCE
#include "CLinux.h"
#include <malloc.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

ssize_t espalier_copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset, size_t count) {
  return copy_file_range(in, in_offset, out, out_offset, count, 0);
}

int espalier_available_processors(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

void espalier_return_free_memory(void) {
  // Looking through all of it takes longer than the work of a small unit, so it is done only now and then.
  static _Atomic int64_t last;
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
  int64_t now = time.tv_sec * INT64_C(1000) + time.tv_nsec / 1000000, before = last;
  if (now - before < 50 || !atomic_compare_exchange_strong(&last, &before, now)) return;
  if (mallinfo2().fordblks > 4 << 20) malloc_trim(0);
}

int espalier_memory_file(void) { return memfd_create("espalier", MFD_CLOEXEC); }

#define TEXT_OF(token) #token
#define TEXT(macro) TEXT_OF(macro)

const char *espalier_commit(void) {
#ifdef ESPALIER_COMMIT
  return TEXT(ESPALIER_COMMIT);
#else
  return NULL;
#endif
}
