#include "fwrow.h"

#include <math.h>

BODY size_t lane_sum(i32x16 x) {
  size_t sum = 0;
  for (int k = 0; k < 16; k++) sum += (size_t)x[k];
  return sum;
}

BODY size_t fw_histogram_body(size_t padded, const float *s, uint32_t low, uint32_t high, int shift, size_t slots, uint64_t *counts) {
  require((high - 1 - low) >> shift < slots);
  i32x16 above = 0;
  f32x16 least = all16(f32_of_bits(low)), end = all16(f32_of_bits(high));
  for (size_t i = 0; i < padded; i += 16) {
    f32x16 si = load16(s + i);
    i32x16 larger = si >= end;
    above -= larger;
    for (uint64_t bits = bits_of16((si >= least) & ~larger); bits; bits &= bits - 1)
      counts[(bits_of_f32(s[i + (size_t)__builtin_ctzll(bits)]) - low) >> shift]++;
  }
  return lane_sum(above);
}
TIERS(size_t, fw_histogram, (size_t padded, const float *s, uint32_t low, uint32_t high, int shift, size_t slots, uint64_t *counts),
      (padded, s, low, high, shift, slots, counts))

BODY size_t fw_count_equal_body(size_t padded, const float *s, float threshold) {
  size_t count = 0;
  for (size_t i = 0; i < padded; i++) count += s[i] == threshold && threshold > 0;
  return count;
}
TIERS(size_t, fw_count_equal, (size_t padded, const float *s, float threshold), (padded, s, threshold))

BODY double fw_above_body(size_t words, size_t padded, const float *s, float threshold, size_t ties, uint64_t *vertex) {
  require(padded == 64 * words);
  f64x8 sum = 0;
  for (size_t start = 0; start < padded; start += 64) {
    uint64_t word = 0;
    for (size_t k = 0; k < 64; k += 16) {
      f32x16 si = load16(s + start + k);
      i32x16 chosen = si > threshold;
      if (ties > 0) {
        uint64_t bits = bits_of16((si == threshold) & (si > 0)), taken = 0;
        for (; bits && ties > 0; ties--, bits &= bits - 1) taken |= bits & -bits;
        if (taken) chosen |= lanes_of16(taken);
      }
      sum += folded(only16(chosen, si));
      word |= bits_of16(chosen) << k;
    }
    vertex[start / 64] |= word;
  }
  return total8(sum);
}
TIERS(double, fw_above, (size_t words, size_t padded, const float *s, float threshold, size_t ties, uint64_t *vertex),
      (words, padded, s, threshold, ties, vertex))

// The rank-th largest (from 1) of a few values, which are moved about; `above` becomes how many are larger.
BODY float largest_of(size_t count, float *values, size_t rank, size_t *above) {
  size_t from = 0, end = count;
  for (;;) {
    float a = values[from], b = values[from + (end - from) / 2], z = values[end - 1];
    float pivot = a < b ? (b < z ? b : a < z ? z : a) : (a < z ? a : b < z ? z : b);
    // Larger ones to the front, equal ones after them.
    size_t larger = from, equal = from;
    for (size_t i = from; i < end; i++) {
      float value = values[i];
      if (value > pivot) {
        values[i] = values[equal];
        values[equal++] = values[larger];
        values[larger++] = value;
      } else if (value == pivot) {
        values[i] = values[equal];
        values[equal++] = value;
      }
    }
    if (rank <= larger) {
      end = larger;
    } else if (rank <= equal) {
      *above = larger;
      return pivot;
    } else {
      from = equal;
    }
  }
}

// Values in (low, high] into `few`; how many are above high.
BODY size_t band(size_t padded, const float *s, float low, float high, float *few, size_t *listed) {
  i32x16 above = 0;
  size_t count = 0;
  for (size_t i = 0; i < padded; i += 16) {
    f32x16 si = load16(s + i);
    i32x16 larger = si > high;
    above -= larger;
    for (uint64_t bits = bits_of16((si > low) & ~larger); bits; bits &= bits - 1) few[count++] = s[i + (size_t)__builtin_ctzll(bits)];
  }
  *listed = count;
  return lane_sum(above);
}

BODY double fw_largest_body(size_t words, size_t padded, size_t budget, const float *s, espalier_fw_guess *guess, float *scratch,
                            uint64_t *vertex) {
  if (budget == 0) return 0;
  size_t listed = 0;
  float least = guess->least, margin = guess->margin;
  size_t above = least > 0 ? band(padded, s, least * (1 - margin), least * (1 + margin), scratch, &listed) : budget;
  if (above >= budget || above + listed < budget) {
    // The guess missed: the band is the slot of a histogram in which the threshold lies.
    uint64_t counts[2048] = {0};
    const uint32_t first = 1, infinite = 0x7F800000;
    fw_histogram_body(padded, s, first, infinite, 20, 2048, counts);
    size_t slot = 2047, larger = 0;
    while (slot > 0 && larger + counts[slot] < budget) larger += counts[slot--];
    if (larger + counts[slot] < budget) {
      guess->least = 0;
      return fw_above_body(words, padded, s, 0, 0, vertex);
    }
    // A slot begins at its lower end and the band after it.
    uint32_t start = first + ((uint32_t)slot << 20);
    above = band(padded, s, f32_of_bits(start - 1), f32_of_bits(start + (1 << 20) - 1), scratch, &listed);
  }
  size_t larger = 0;
  float threshold = largest_of(listed, scratch, budget - above, &larger);
  float moved = least > 0 ? fabsf(threshold / least - 1) : 1;
  *guess = (espalier_fw_guess){threshold, fminf(0.25f, 0.5f * margin + 2 * moved + 0.002f)};
  return fw_above_body(words, padded, s, threshold, budget - above - larger, vertex);
}
TIERS(double, fw_largest,
      (size_t words, size_t padded, size_t budget, const float *s, espalier_fw_guess *guess, float *scratch, uint64_t *vertex),
      (words, padded, budget, s, guess, scratch, vertex))

// In groups of 2, 4 or 8 the other members are the f32x16 i ^ 1, i ^ 2, ...
#define PARTNERS(x, r)                                                                                                          \
  __builtin_shufflevector(x, x, 0 ^ r, 1 ^ r, 2 ^ r, 3 ^ r, 4 ^ r, 5 ^ r, 6 ^ r, 7 ^ r, 8 ^ r, 9 ^ r, 10 ^ r, 11 ^ r, 12 ^ r, 13 ^ r, \
                          14 ^ r, 15 ^ r)
#define COUNT_BEFORE(r)                                          \
  {                                                              \
    f32x16 other = PARTNERS(value, r);                            \
    before -= (other > value) | ((other == value) & (PARTNERS(place, r) < place)); \
  }

BODY double fw_largest_in_groups_body(size_t words, size_t padded, size_t n, size_t size, size_t keep, const float *s,
                                      const uint64_t *frozen, uint64_t *vertex) {
  require(padded == 64 * words && n <= padded);
  f64x8 sum = 0;
  if (size == 2 || size == 4 || size == 8) {
    i32x16 place = counting16();
    int32_t places = (int32_t)keep;
    for (size_t word = 0; word < words; word++) {
      vertex[word] = 0;
      for (size_t i = word * 64; i < word * 64 + 64; i += 16) {
        f32x16 value = members16(frozen, i) ? all16(INFINITY) : load16(s + i);
        i32x16 before = 0;
        COUNT_BEFORE(1)
        if (size > 2) {
          COUNT_BEFORE(2)
          COUNT_BEFORE(3)
        }
        if (size > 4) {
          COUNT_BEFORE(4)
          COUNT_BEFORE(5)
          COUNT_BEFORE(6)
          COUNT_BEFORE(7)
        }
        i32x16 chosen = (before < places) & (value > 0);
        vertex[word] |= bits_of16(chosen) << i % 64;
        sum += folded(only16(chosen, load16(s + i)));
      }
    }
    return total8(sum);
  }
  double chosen_sum = 0;
  memset(vertex, 0, words * sizeof *vertex);
  for (size_t start = 0; start + size <= n; start += size) {
    for (size_t i = start; i < start + size; i++) {
      int fixed = is_member(frozen, i);
      size_t before = 0;
      for (size_t j = start; j < start + size && !fixed; j++) {
        before += is_member(frozen, j) || s[j] > s[i] || (s[j] == s[i] && j < i);
      }
      if (!fixed && (before >= keep || !(s[i] > 0))) continue;
      vertex[i / 64] |= 1ull << i % 64;
      if (!fixed) chosen_sum += s[i];
    }
  }
  return chosen_sum;
}
TIERS(double, fw_largest_in_groups,
      (size_t words, size_t padded, size_t n, size_t size, size_t keep, const float *s, const uint64_t *frozen, uint64_t *vertex),
      (words, padded, n, size, keep, s, frozen, vertex))

