// The products of fewtokens.c for one instruction set. Before it is included: TIER(name) names a function, TIER_TARGET are its
// attributes, EXPAND16(mask, source, words) and EXPAND32(mask, source, words) put packed elements in their places, MOST is the number of tokens at a
// time, and PAIRED(sum, x, y) adds the products of pairs of bf16, if there is an instruction for it.

// `last` is the last place from which whole vectors can be read.
typedef struct {
  const char *next, *last, *end;
  const uint8_t *bits;
} TIER(row);

// The next `count` columns (32, or what is left) of a row, as even and odd ones; or as 32 elements of 16 bits in `words`.
__attribute__((TIER_TARGET, always_inline)) static inline void TIER(chunk)(int type, int compact, int paired, int ahead, size_t count,
                                                                          TIER(row) * row, u32x16 *words, f32x16 *even, f32x16 *odd) {
  size_t size = type == ESPALIER_F32 ? 4 : 2, used = count;
  uint32_t mask = 0;
  if (compact) {
    memcpy(&mask, row->bits, count == 32 ? 4 : (count + 7) / 8);
    if (count < 32) mask &= (1u << count) - 1;
    row->bits += 4;
    used = (size_t)__builtin_popcount(mask);
  }
  if (ahead) __builtin_prefetch(row->next + AHEAD, 0, 2);
  if (ahead && !compact && type == ESPALIER_F32) __builtin_prefetch(row->next + AHEAD + 64, 0, 2);
  const char *source = row->next;
  char held[128];
  // Where whole vectors would be read beyond the end.
  if ((compact || count < 32) && __builtin_expect(source > row->last || count < 32, 0)) {
    size_t left = (size_t)(row->end - source), wanted = used * size;
    memset(held, 0, sizeof held);
    memcpy(held, source, wanted < left ? wanted : left);
    if (wanted > left) used = left / size;
    source = held;
  }
  row->next += used * size;
  if (type == ESPALIER_F32) {
    f32x16 low, high;
    if (compact) {
      EXPAND32(mask & 0xFFFF, source, &low);
      EXPAND32(mask >> 16, source + 4 * __builtin_popcount(mask & 0xFFFF), &high);
    } else {
      memcpy(&low, source, sizeof low);
      memcpy(&high, source + sizeof low, sizeof high);
    }
    *even = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *odd = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return;
  }
  u32x16 pairs;
  if (compact)
    EXPAND16(mask, source, &pairs);
  else
    memcpy(&pairs, source, sizeof pairs);
  *words = pairs;
  if (paired) return;
  if (type == ESPALIER_BF16) {
    *even = (f32x16)(pairs << 16);
    *odd = (f32x16)(pairs & 0xFFFF0000);
  } else {
    u32x16 halves = pairs & 0xFFFF;
    widen_f16(&halves, even);
    halves = pairs >> 16;
    widen_f16(&halves, odd);
  }
}

// One row times `tokens` of `all` states, a constant when it is inlined: chunks alternate between two sums.
__attribute__((TIER_TARGET, always_inline)) static inline TIER(row)
    TIER(product)(int type, int compact, int paired, size_t tokens, size_t columns, TIER(row) row, const uint32_t *x, size_t all, int add,
                  float *y, size_t stride) {
  f32x16 sums[2 * MOST];
#pragma clang loop unroll(full)
  for (size_t i = 0; i < 2 * tokens; i++) sums[i] = 0;
  size_t step = paired ? 16 : 32;
#define CHUNK(count, half)                                                                              \
  {                                                                                                     \
    u32x16 pairs = 0;                                                                                   \
    f32x16 even = 0, odd = 0;                                                                           \
    TIER(chunk)(type, compact, paired, compact || tokens >= 4, count, &row, &pairs, &even, &odd);                               \
    _Pragma("clang loop unroll(full)") for (size_t token = 0; token < tokens; token++) {                 \
      const uint32_t *state = x + token * step;                                                         \
      f32x16 sum = sums[2 * token + half];                                                              \
      if (paired) {                                                                                     \
        sum = PAIRED(sum, pairs, *(const u32x16 *)state);                                               \
      } else {                                                                                          \
        sum += even * *(const f32x16 *)state;                                                     \
        sum += odd * *(const f32x16 *)(state + 16);                                                 \
      }                                                                                                 \
      sums[2 * token + half] = sum;                                                                     \
    }                                                                                                   \
    x += step * all;                                                                                    \
  }
  size_t column = 0;
  for (; column + 64 <= columns; column += 64) {
    CHUNK(32, 0)
    CHUNK(32, 1)
  }
  if (column < columns) {
    size_t left = columns - column, first = left < 32 ? left : 32;
    CHUNK(first, 0)
    if (left > first) CHUNK(left - first, 1)
  }
#undef CHUNK
#pragma clang loop unroll(full)
  for (size_t token = 0; token < tokens; token++) {
    f32x16 both = sums[2 * token] + sums[2 * token + 1];
    float sum = total16(&both);
    y[token * stride] = add ? y[token * stride] + sum : sum;
  }
  return row;
}

#define EACH(most)                                                                                                           \
  for (; token + (most) <= tokens; token += (most))                                                                          \
    next = TIER(product)(type, compact, paired, most, columns, here, x + token * step, tokens, add, y + token * stride + row, stride);

__attribute__((TIER_TARGET, always_inline)) static inline void TIER(rows)(int type, int compact, int paired, size_t rows, size_t columns,
                                                                         const void *values, size_t value_bytes, const uint8_t *bits,
                                                                         size_t tokens, const uint32_t *x, int add, float *y,
                                                                         size_t stride) {
  size_t step = paired ? 16 : 32;
  size_t vector = type == ESPALIER_F32 ? 128 : 64;
  const char *start = values, *end = start + value_bytes;
  TIER(row) here = {start, value_bytes < vector ? start - 1 : end - vector, end, bits}, next = here;
  for (size_t row = 0; row < rows; row++) {
    size_t token = 0;
#if MOST >= 8
    EACH(8)
#endif
#if MOST >= 4
    EACH(4)
#endif
    EACH(2)
    EACH(1)
    here = next;
    if (compact) here.bits = bits + (row + 1) * ((columns + 7) / 8);
  }
}
#undef EACH

__attribute__((TIER_TARGET)) static void TIER(few)(int type, size_t rows, size_t columns, const void *values, size_t value_bytes,
                                                  const uint8_t *bits, size_t tokens, int paired, const uint32_t *x, int add, float *y,
                                                  size_t stride) {
#define CASE(t, c, p) TIER(rows)(t, c, p, rows, columns, values, value_bytes, bits, tokens, x, add, y, stride)
#define CASES(t) return bits ? CASE(t, 1, 0) : CASE(t, 0, 0)
#if PAIRS
  if (paired) return bits ? CASE(ESPALIER_BF16, 1, 1) : CASE(ESPALIER_BF16, 0, 1);
#endif
  if (type == ESPALIER_BF16) CASES(ESPALIER_BF16);
  if (type == ESPALIER_F16) CASES(ESPALIER_F16);
  CASES(ESPALIER_F32);
#undef CASES
#undef CASE
}
