// How many elements a pointer points at, so that Swift sees a function of spans whose lengths it checks.
#ifndef ESPALIER_COUNTED_H
#define ESPALIER_COUNTED_H

#include <stddef.h>
#include <stdint.h>

// Only Swift's importer understands the attribute; for the C compiler it is nothing. `n` names another parameter.
#if __has_feature(bounds_safety_attributes)
#define COUNTED(n) __attribute__((__counted_by__(n))) __attribute__((noescape))
#else
#define COUNTED(n)
#endif

#endif
