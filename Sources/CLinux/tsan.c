// For `tools/sanitize thread` alone: tells ThreadSanitizer of the part of Swift's Mutex that it cannot see.
//
// A lock that another thread holds is waited for inside of Swift's library, which is not compiled for ThreadSanitizer: whoever
// gets it there seems to have no lock. These two are found before the library's own, call them, and say what they did.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>
#include <stdint.h>

#define LOCK "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define UNLOCK "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

#define SWIFT __attribute__((swiftcall))
#define SELF __attribute__((swift_context))

SWIFT void espalier_lock_slow(uint32_t thread, SELF void *mutex) __asm__(LOCK);
SWIFT void espalier_unlock_slow(SELF void *mutex) __asm__(UNLOCK);

SWIFT void espalier_lock_slow(uint32_t thread, SELF void *mutex) {
  SWIFT void (*real)(uint32_t, SELF void *) = dlsym(RTLD_NEXT, LOCK);
  real(thread, mutex);
  __tsan_acquire(mutex);
}

SWIFT void espalier_unlock_slow(SELF void *mutex) {
  __tsan_release(mutex);
  SWIFT void (*real)(SELF void *) = dlsym(RTLD_NEXT, UNLOCK);
  real(mutex);
}
#endif
#endif
