#include "lanes.h"

// Sums over values in 16 lanes, which are then added up pairwise.
BODY float dot(size_t n, const float *restrict x, const float *restrict y) {
  f32x16 sum = 0;
  size_t i = 0;
  for (; i + 16 <= n; i += 16) sum += load16(x + i) * load16(y + i);
  if (i < n) sum += load_up_to16(n - i, x + i) * load_up_to16(n - i, y + i);
  f32x8 eight = sum.lo + sum.hi;
  f32x4 four = eight.lo + eight.hi;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

BODY void cached_scores_body(size_t heads, size_t size, size_t q_count, const float *restrict queries, size_t positions, size_t stride,
                             size_t k_count, const float *restrict keys, size_t s_count, float *restrict scores) {
  for (size_t position = 0; position < positions; position++)
    for (size_t head = 0; head < heads; head++)
      scores[head * positions + position] = dot(size, queries + head * size, keys + position * stride);
}
TIERS(void, cached_scores,
      (size_t heads, size_t size, size_t q_count, const float *queries, size_t positions, size_t stride, size_t k_count,
       const float *keys, size_t s_count, float *scores),
      (heads, size, q_count, queries, positions, stride, k_count, keys, s_count, scores))

BODY void cached_values_body(size_t heads, size_t size, size_t positions, size_t s_count, const float *restrict shares, size_t stride,
                             size_t v_count, const float *restrict values, size_t o_count, float *restrict out) {
  for (size_t i = 0; i < heads * size; i++) out[i] = 0;
  for (size_t position = 0; position < positions; position++)
    for (size_t head = 0; head < heads; head++) {
      float share = shares[head * positions + position], *sum = out + head * size;
      const float *value = values + position * stride;
      for (size_t i = 0; i < size; i++) sum[i] += share * value[i];
    }
}
TIERS(void, cached_values,
      (size_t heads, size_t size, size_t positions, size_t s_count, const float *shares, size_t stride, size_t v_count,
       const float *values, size_t o_count, float *out),
      (heads, size, positions, s_count, shares, stride, v_count, values, o_count, out))
