#ifndef ESPALIER_COMPACT_H
#define ESPALIER_COMPACT_H

#include "counted.h"

// ---- compact.c: rows stored as a bit mask and the values that it keeps

/// Expands n elements of 16 bits: x[i] is the next value if bit i of `kept` (least significant first) is 1, otherwise 0. `values` holds
/// `count` values and lies at any address; values that are missing are 0. Returns how many bits are 1.
size_t espalier_expand_16(size_t n, size_t bytes, const uint8_t *COUNTED(bytes) kept, size_t count, const void *values,
                          uint16_t *COUNTED(n) x);
/// The same for elements of 32 bits.
size_t espalier_expand_32(size_t n, size_t bytes, const uint8_t *COUNTED(bytes) kept, size_t count, const void *values,
                          uint32_t *COUNTED(n) x);
/// How many of the bits are 1.
size_t espalier_count_bits(size_t bytes, const uint8_t *COUNTED(bytes) bits);

#endif
