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

/// Bit i of `kept` becomes 1 if any bit of x[i], of 16 bits, is 1, so a negative zero is not zero here; bits past the last become 0.
/// x lies at any address. Returns how many bits are 1.
size_t espalier_mark_nonzero_16(size_t n, const void *x, size_t bytes, uint8_t *COUNTED(bytes) kept);
/// The same for elements of 32 bits.
size_t espalier_mark_nonzero_32(size_t n, const void *x, size_t bytes, uint8_t *COUNTED(bytes) kept);
/// How many elements of 16 bits are negative zeros; x lies at any address.
size_t espalier_count_negative_zeros_16(size_t n, const void *x);
/// The same for elements of 32 bits.
size_t espalier_count_negative_zeros_32(size_t n, const void *x);
/// The elements of x[n] whose bits are 1, one after the other, at most `count` of them; returns how many they are.
size_t espalier_take_16(size_t n, size_t bytes, const uint8_t *COUNTED(bytes) kept, const void *x, size_t count,
                        uint16_t *COUNTED(count) y);
/// The same for elements of 32 bits.
size_t espalier_take_32(size_t n, size_t bytes, const uint8_t *COUNTED(bytes) kept, const void *x, size_t count,
                        uint32_t *COUNTED(count) y);
/// Whether of each four bits at most two are 1.
int espalier_fits_two_of_four(size_t bytes, const uint8_t *COUNTED(bytes) kept);
/// Sets the first bits that are 0 of each four of n bits, a multiple of 4, until two are 1.
void espalier_fill_two_of_four(size_t n, size_t bytes, uint8_t *COUNTED(bytes) kept);

#endif
