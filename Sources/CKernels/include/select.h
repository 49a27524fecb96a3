#ifndef ESPALIER_SELECT_H
#define ESPALIER_SELECT_H

#include "counted.h"

// ---- select.c: how salient weights are, and which of them are kept

/// scores[i] = |w[i]| * scale[i].
void espalier_scores(size_t n, const float *COUNTED(n) w, const float *COUNTED(n) scale, float *COUNTED(n) scores);
/// scores[i] = (|w[i]| / column_sums[i] + |w[i]| / row_sum) * scale[i]; a quotient by 0 is 0.
void espalier_relative_scores(size_t n, float row_sum, const float *COUNTED(n) w, const float *COUNTED(n) column_sums,
                              const float *COUNTED(n) scale, float *COUNTED(n) scores);
/// sums[i] += |w[i]|.
void espalier_add_magnitudes(size_t n, const float *COUNTED(n) w, double *COUNTED(n) sums);
/// The sum of |w[i]|.
double espalier_sum_magnitudes(size_t n, const float *COUNTED(n) w);
/// Keeps the `keep` highest of n scores (all finite): kept[i] becomes 1 or 0. Of equal scores the lower index is pruned first.
void espalier_select_kept(size_t n, size_t keep, const float *COUNTED(n) scores, uint32_t *COUNTED(n) scratch,
                          uint8_t *COUNTED(n) kept);
/// Bytes of 0 and 1 to bits, the least significant first; n bits.
void espalier_pack_bits(size_t n, const uint8_t *COUNTED(n) bytes, size_t count, uint8_t *COUNTED(count) bits);
/// Bits to bytes of 0 and 1.
void espalier_unpack_bits(size_t n, size_t count, const uint8_t *COUNTED(count) bits, uint8_t *COUNTED(n) bytes);
/// Bit i is 1 if x[i] is not zero of either sign.
void espalier_nonzero_bits(size_t n, const float *COUNTED(n) x, size_t count, uint8_t *COUNTED(count) bits);

#endif
