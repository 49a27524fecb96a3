#include "tiers.h"

#include <math.h>

#include <string.h>

// A number that orders like the score. Zeros of both signs are equal.
static inline uint32_t order_of(float score) {
  float plain = score + 0.0f;
  uint32_t bits;
  memcpy(&bits, &plain, sizeof bits);
  return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

// The threshold is found digit by digit from histograms of 8 bits: O(n), whatever the scores are.
void espalier_select_kept(size_t n, size_t keep, const float *scores, uint32_t *scratch, uint8_t *kept) {
  size_t prune = n - keep;
  if (n <= 32) {
    // A group of N:M: how many come before each.
    for (size_t i = 0; i < n; i++) {
      size_t before = 0;
      for (size_t j = 0; j < i; j++) before += scores[j] <= scores[i];
      for (size_t j = i + 1; j < n; j++) before += scores[j] < scores[i];
      kept[i] = before >= prune;
    }
    return;
  }
  for (size_t i = 0; i < n; i++) scratch[i] = order_of(scores[i]);
  uint32_t prefix = 0, mask = 0;
  size_t below = prune;
  for (int shift = 24; shift >= 0; shift -= 8) {
    size_t histogram[256] = {0};
    for (size_t i = 0; i < n; i++)
      if ((scratch[i] & mask) == prefix) histogram[scratch[i] >> shift & 255]++;
    uint32_t digit = 0;
    while (digit < 255 && histogram[digit] <= below) below -= histogram[digit++];
    prefix |= digit << shift;
    mask |= 255u << shift;
  }
  // `prefix` is now the (prune + 1)-th smallest score, and the first `below` scores that are equal to it are pruned.
  for (size_t i = 0; i < n; i++) {
    int equal = scratch[i] == prefix;
    int goes = scratch[i] < prefix || (equal && below > 0);
    if (equal && below > 0) below--;
    kept[i] = !goes;
  }
}

BODY void scores_body(size_t n, const float *restrict w, const float *restrict scale, float *restrict scores) {
  for (size_t i = 0; i < n; i++) scores[i] = fabsf(w[i]) * scale[i];
}
TIERS(void, scores, (size_t n, const float *w, const float *scale, float *scores), (n, w, scale, scores))

BODY void relative_scores_body(size_t n, float row_sum, const float *restrict w, const float *restrict column_sums,
                               const float *restrict scale, float *restrict scores) {
  for (size_t i = 0; i < n; i++) {
    float magnitude = fabsf(w[i]);
    float by_column = column_sums[i] > 0 ? magnitude / column_sums[i] : 0;
    float by_row = row_sum > 0 ? magnitude / row_sum : 0;
    scores[i] = (by_column + by_row) * scale[i];
  }
}
TIERS(void, relative_scores,
      (size_t n, float row_sum, const float *w, const float *column_sums, const float *scale, float *scores),
      (n, row_sum, w, column_sums, scale, scores))

BODY void add_magnitudes_body(size_t n, const float *restrict w, double *restrict sums) {
  for (size_t i = 0; i < n; i++) sums[i] += fabs((double)w[i]);
}
TIERS(void, add_magnitudes, (size_t n, const float *w, double *sums), (n, w, sums))

BODY double sum_magnitudes_body(size_t n, const float *w) {
  double lanes[8] = {0}, total = 0;
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t j = 0; j < 8; j++) lanes[j] += fabs((double)w[i + j]);
  for (; i < n; i++) total += fabs((double)w[i]);
  for (size_t j = 0; j < 8; j++) total += lanes[j];
  return total;
}
TIERS(double, sum_magnitudes, (size_t n, const float *w), (n, w))

void espalier_pack_bits(size_t n, const uint8_t *bytes, size_t count, uint8_t *bits) {
  memset(bits, 0, (n + 7) / 8);
  for (size_t i = 0; i < n; i++) bits[i >> 3] |= (uint8_t)((bytes[i] != 0) << (i & 7));
}

void espalier_nonzero_bits(size_t n, const float *x, size_t count, uint8_t *bits) {
  memset(bits, 0, (n + 7) / 8);
  for (size_t i = 0; i < n; i++) bits[i >> 3] |= (uint8_t)((x[i] != 0) << (i & 7));
}

void espalier_unpack_bits(size_t n, size_t count, const uint8_t *bits, uint8_t *bytes) {
  for (size_t i = 0; i < n; i++) bytes[i] = bits[i >> 3] >> (i & 7) & 1;
}
