// Frank-Wolfe on relaxed masks (SparseFW, arXiv 2510.13713, algorithm 2), with the gradient kept up to date from what changed.
//
// A step needs cv = ((1 - v) . w) G for the vertex v. From one step to the next few entries enter or leave the vertex, so cv changes by
// few rows of G. What that costs is the reading of G: tiles of G stay in the second-level cache while all rows of the block add
// their changes, several changes to one piece of cv that stays in registers.

#include "tiers.h"

#include <math.h>
#include <string.h>

// Every function that takes or gives lanes is inlined: no calling convention is involved.
#pragma clang diagnostic ignored "-Wpsabi"
// Products and sums are rounded one by one, so that every instruction set gives the same bits; memory is what the loops wait for.
#pragma clang fp contract(off)

// Sixteen lanes, whatever the registers are.
typedef float lanes __attribute__((vector_size(64), aligned(4)));
typedef int32_t marks __attribute__((vector_size(64), aligned(4)));
typedef double doubles __attribute__((vector_size(64), aligned(8)));
typedef float half_lanes __attribute__((vector_size(32), aligned(4)));
typedef _Bool flags __attribute__((ext_vector_type(16)));

enum { WIDTH = 16, PIECE = 8 };

BODY lanes load(const float *x) { return *(const lanes *)x; }

BODY void store(float *x, lanes value) { *(lanes *)x = value; }

BODY lanes all(float x) { return (lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// Sixteen bits as lanes of -1 and 0, and back.
BODY marks spread(uint64_t bits) {
  uint16_t sixteen = (uint16_t)bits;
  flags chosen;
  memcpy(&chosen, &sixteen, sizeof sixteen);
  return -__builtin_convertvector(chosen, marks);
}

BODY uint64_t gather(marks chosen) {
  flags some = __builtin_convertvector(chosen, flags);
  uint16_t bits;
  memcpy(&bits, &some, sizeof bits);
  return bits;
}

BODY lanes only(marks chosen, lanes x) { return (lanes)(chosen & (marks)x); }

BODY lanes either(marks chosen, lanes x, lanes y) { return (lanes)((chosen & (marks)x) | (~chosen & (marks)y)); }

// Sums of f32 in f64, in lanes.
BODY doubles widen(lanes x) {
  half_lanes low = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  half_lanes high = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_convertvector(low, doubles) + __builtin_convertvector(high, doubles);
}

BODY double total(doubles x) { return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])); }

BODY void fw_advance_body(size_t padded, float eta, const float *restrict w, const uint64_t *restrict frozen,
                          const uint64_t *restrict vertex, const float *restrict cv, float *restrict x, float *restrict c,
                          float *restrict s, double *restrict sums) {
  float stay = 1 - eta;
  doubles loss = {0}, inside = {0};
  for (size_t i = 0; i < padded; i += WIDTH) {
    int shift = i % 64;
    lanes xi = load(x + i) * stay + only(spread(vertex[i / 64] >> shift), all(eta));
    xi = __builtin_elementwise_min(xi, all(1));
    lanes ci = load(c + i) * stay + load(cv + i) * eta;
    lanes wc = load(w + i) * ci;
    lanes si = only(~spread(frozen[i / 64] >> shift), wc);
    store(x + i, xi);
    store(c + i, ci);
    store(s + i, si);
    loss += widen((1 - xi) * wc);
    inside += widen(si * xi);
  }
  sums[0] = total(loss);
  sums[1] = total(inside);
}
TIERS(void, fw_advance,
      (size_t padded, float eta, const float *w, const uint64_t *frozen, const uint64_t *vertex, const float *cv, float *x, float *c,
       float *s, double *sums),
      (padded, eta, w, frozen, vertex, cv, x, c, s, sums))

BODY void fw_scores_body(size_t padded, const float *restrict w, const uint64_t *restrict frozen, const float *restrict c,
                         float *restrict s) {
  for (size_t i = 0; i < padded; i += WIDTH) store(s + i, only(~spread(frozen[i / 64] >> i % 64), load(w + i) * load(c + i)));
}
TIERS(void, fw_scores, (size_t padded, const float *w, const uint64_t *frozen, const float *c, float *s), (padded, w, frozen, c, s))

BODY double fw_vertex_loss_body(size_t padded, const float *restrict w, const uint64_t *restrict vertex, const float *restrict cv) {
  doubles loss = {0};
  for (size_t i = 0; i < padded; i += WIDTH)
    loss += widen(only(~spread(vertex[i / 64] >> i % 64), load(w + i) * load(cv + i)));
  return total(loss);
}
TIERS(double, fw_vertex_loss, (size_t padded, const float *w, const uint64_t *vertex, const float *cv), (padded, w, vertex, cv))

BODY size_t lane_sum(marks x) {
  size_t sum = 0;
  for (int k = 0; k < WIDTH; k++) sum += (size_t)x[k];
  return sum;
}

BODY uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

BODY float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The bits of positive floats order like the floats.
BODY size_t fw_histogram_body(size_t padded, const float *s, uint32_t low, uint32_t high, int shift, uint64_t *counts) {
  marks above = {0};
  lanes least = all(float_of(low)), end = all(float_of(high));
  for (size_t i = 0; i < padded; i += WIDTH) {
    lanes si = load(s + i);
    marks larger = si >= end;
    above -= larger;
    for (uint64_t bits = gather((si >= least) & ~larger); bits; bits &= bits - 1)
      counts[(bits_of(s[i + (size_t)__builtin_ctzll(bits)]) - low) >> shift]++;
  }
  return lane_sum(above);
}
TIERS(size_t, fw_histogram, (size_t padded, const float *s, uint32_t low, uint32_t high, int shift, uint64_t *counts),
      (padded, s, low, high, shift, counts))

BODY size_t fw_count_equal_body(size_t padded, const float *s, float threshold) {
  size_t count = 0;
  for (size_t i = 0; i < padded; i++) count += s[i] == threshold && threshold > 0;
  return count;
}
TIERS(size_t, fw_count_equal, (size_t padded, const float *s, float threshold), (padded, s, threshold))

BODY double fw_above_body(size_t padded, const float *s, float threshold, size_t ties, uint64_t *vertex) {
  doubles sum = {0};
  for (size_t start = 0; start < padded; start += 64) {
    uint64_t word = 0;
    for (size_t k = 0; k < 64; k += WIDTH) {
      lanes si = load(s + start + k);
      marks chosen = si > all(threshold);
      if (ties > 0) {
        marks equal = (si == all(threshold)) & (si > all(0));
        uint64_t bits = gather(equal);
        if (bits) {
          uint64_t taken = 0;
          for (; bits && ties > 0; ties--, bits &= bits - 1) taken |= bits & -bits;
          chosen |= spread(taken);
        }
      }
      sum += widen(only(chosen, si));
      word |= gather(chosen) << k;
    }
    vertex[start / 64] |= word;
  }
  return total(sum);
}
TIERS(double, fw_above, (size_t padded, const float *s, float threshold, size_t ties, uint64_t *vertex),
      (padded, s, threshold, ties, vertex))

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
  marks above = {0};
  size_t count = 0;
  for (size_t i = 0; i < padded; i += WIDTH) {
    lanes si = load(s + i);
    marks larger = si > all(high);
    above -= larger;
    for (uint64_t bits = gather((si > all(low)) & ~larger); bits; bits &= bits - 1) few[count++] = s[i + (size_t)__builtin_ctzll(bits)];
  }
  *listed = count;
  return lane_sum(above);
}

BODY double fw_largest_body(size_t padded, size_t budget, const float *s, float *guess, float *scratch, uint64_t *vertex) {
  if (budget == 0) return 0;
  size_t listed = 0;
  size_t above = guess[0] > 0 ? band(padded, s, guess[0] * (1 - guess[1]), guess[0] * (1 + guess[1]), scratch, &listed) : budget;
  if (above >= budget || above + listed < budget) {
    // The guess missed: the band is the slot of a histogram in which the threshold lies.
    uint64_t counts[2048] = {0};
    const uint32_t first = 1, infinite = 0x7F800000;
    fw_histogram_body(padded, s, first, infinite, 20, counts);
    size_t slot = 2047, larger = 0;
    while (slot > 0 && larger + counts[slot] < budget) larger += counts[slot--];
    if (larger + counts[slot] < budget) {
      guess[0] = 0;
      return fw_above_body(padded, s, 0, 0, vertex);
    }
    // A slot begins at its lower end and the band after it.
    uint32_t start = first + ((uint32_t)slot << 20);
    above = band(padded, s, float_of(start - 1), float_of(start + (1 << 20) - 1), scratch, &listed);
  }
  size_t larger = 0;
  float threshold = largest_of(listed, scratch, budget - above, &larger);
  float moved = guess[0] > 0 ? fabsf(threshold / guess[0] - 1) : 1;
  guess[0] = threshold;
  guess[1] = __builtin_elementwise_min(0.25f, 0.5f * guess[1] + 2 * moved + 0.002f);
  return fw_above_body(padded, s, threshold, budget - above - larger, vertex);
}
TIERS(double, fw_largest, (size_t padded, size_t budget, const float *s, float *guess, float *scratch, uint64_t *vertex),
      (padded, budget, s, guess, scratch, vertex))

// In groups of 2, 4 or 8 the other members are the lanes i ^ 1, i ^ 2, ...
#define PARTNERS(x, r)                                                                                                          \
  __builtin_shufflevector(x, x, 0 ^ r, 1 ^ r, 2 ^ r, 3 ^ r, 4 ^ r, 5 ^ r, 6 ^ r, 7 ^ r, 8 ^ r, 9 ^ r, 10 ^ r, 11 ^ r, 12 ^ r, 13 ^ r, \
                          14 ^ r, 15 ^ r)
#define COUNT_BEFORE(r)                                          \
  {                                                              \
    lanes other = PARTNERS(value, r);                            \
    before -= (other > value) | ((other == value) & (PARTNERS(place, r) < place)); \
  }

BODY lanes scored(const float *s, const uint64_t *frozen, size_t i) {
  marks fixed = spread(frozen[i / 64] >> i % 64);
  return either(fixed, all(INFINITY), load(s + i));
}

BODY double fw_largest_in_groups_body(size_t n, size_t size, size_t keep, const float *s, const uint64_t *frozen, uint64_t *vertex) {
  size_t words = (n + 63) / 64;
  doubles sum = {0};
  if (size == 2 || size == 4 || size == 8) {
    marks place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int32_t places = (int32_t)keep;
    for (size_t word = 0; word < words; word++) {
      vertex[word] = 0;
      for (size_t i = word * 64; i < word * 64 + 64; i += WIDTH) {
        lanes value = scored(s, frozen, i);
        marks before = {0};
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
        marks chosen = (before < places) & (value > all(0));
        vertex[word] |= gather(chosen) << i % 64;
        sum += widen(only(chosen, load(s + i)));
      }
    }
    return total(sum);
  }
  double chosen_sum = 0;
  memset(vertex, 0, words * sizeof *vertex);
  for (size_t start = 0; start + size <= n; start += size) {
    for (size_t i = start; i < start + size; i++) {
      int fixed = frozen[i / 64] >> i % 64 & 1;
      size_t before = 0;
      for (size_t j = start; j < start + size && !fixed; j++) {
        int other = frozen[j / 64] >> j % 64 & 1;
        before += other || s[j] > s[i] || (s[j] == s[i] && j < i);
      }
      if (!fixed && (before >= keep || !(s[i] > 0))) continue;
      vertex[i / 64] |= 1ull << i % 64;
      if (!fixed) chosen_sum += s[i];
    }
  }
  return chosen_sum;
}
TIERS(double, fw_largest_in_groups,
      (size_t n, size_t size, size_t keep, const float *s, const uint64_t *frozen, uint64_t *vertex),
      (n, size, keep, s, frozen, vertex))

size_t espalier_fw_changes(size_t padded, const float *w, const uint64_t *next, uint64_t *vertex, size_t capacity,
                           espalier_fw_change *changes, uint32_t *starts) {
  enum { TILE_WORDS = ESPALIER_FW_TILE / 64 };
  size_t count = 0, words = padded / 64;
  for (size_t word = 0; word < words; word++) {
    if (word % TILE_WORDS == 0) starts[word / TILE_WORDS] = (uint32_t)count;
    uint64_t entered = next[word];
    uint64_t changed = entered ^ vertex[word];
    vertex[word] = entered;
    size_t more = (size_t)__builtin_popcountll(changed);
    if (count + more <= capacity)
      for (espalier_fw_change *change = changes + count; changed; changed &= changed - 1) {
        uint32_t bit = (uint32_t)__builtin_ctzll(changed);
        uint32_t index = (uint32_t)word * 64 + bit;
        *change++ = (espalier_fw_change){index, entered >> bit & 1 ? -w[index] : w[index]};
      }
    count += more;
  }
  starts[(words + TILE_WORDS - 1) / TILE_WORDS] = (uint32_t)count;
  return count;
}

// cv[from ..< from + pieces * WIDTH] += the changes' rows of G; `pieces` is a constant where this is inlined.
BODY void add_piece(size_t pieces, const espalier_fw_change *change, const espalier_fw_change *end, size_t ld, const float *gram,
                    float *cv) {
  lanes sum[PIECE];
#pragma clang loop unroll(full)
  for (size_t k = 0; k < pieces; k++) sum[k] = load(cv + k * WIDTH);
  for (; change < end; change++) {
    const float *g = gram + change->index * ld;
    float value = change->value;
#pragma clang loop unroll(full)
    for (size_t k = 0; k < pieces; k++) sum[k] += value * load(g + k * WIDTH);
  }
#pragma clang loop unroll(full)
  for (size_t k = 0; k < pieces; k++) store(cv + k * WIDTH, sum[k]);
}

BODY void fw_apply_body(size_t rows, size_t width, size_t tiles, size_t ld, const float *gram, size_t capacity,
                        const espalier_fw_change *changes, const uint32_t *starts, int backwards, float *cv) {
  for (size_t turn = 0; turn < tiles; turn++) {
    size_t tile = backwards ? tiles - 1 - turn : turn;
    for (size_t row = 0; row < rows; row++) {
      const uint32_t *at = starts + row * (tiles + 1) + tile;
      const espalier_fw_change *own = changes + row * capacity, *first = own + at[0], *end = own + at[1];
      // The rows of G that come next are on their way to the second-level cache while this tile is in use.
      if (turn + 1 < tiles) {
        const uint32_t *soon = backwards ? at - 1 : at + 1;
        for (const espalier_fw_change *change = own + soon[0]; change < own + soon[1]; change++)
          for (size_t j = 0; j < width; j += WIDTH) __builtin_prefetch(gram + change->index * ld + j, 0, 2);
      }
      if (first == end) continue;
      float *c = cv + row * ld;
      size_t j = 0;
      for (; j + PIECE * WIDTH <= width; j += PIECE * WIDTH) add_piece(PIECE, first, end, ld, gram + j, c + j);
      for (; j + WIDTH <= width; j += WIDTH) add_piece(1, first, end, ld, gram + j, c + j);
      for (; j < width; j++)
        for (const espalier_fw_change *change = first; change < end; change++) c[j] += change->value * gram[change->index * ld + j];
    }
  }
}
TIERS(void, fw_apply,
      (size_t rows, size_t width, size_t tiles, size_t ld, const float *gram, size_t capacity, const espalier_fw_change *changes,
       const uint32_t *starts, int backwards, float *cv),
      (rows, width, tiles, ld, gram, capacity, changes, starts, backwards, cv))

void espalier_fw_outside(size_t n, const float *w, const uint64_t *vertex, float *d) {
  for (size_t i = 0; i < n; i++) d[i] = vertex[i / 64] >> i % 64 & 1 ? 0 : w[i];
}

// ---- Pairwise steps: mass moves from the entry u to the entry p by the exact amount, which needs two rows of G.

typedef struct {
  size_t n, padded;
  const espalier_gram *gram;
  const float *w;
  float *x;
  double *c;
  // 0 where frozen: the weights, and how far x can rise and fall.
  float *free, *rise, *fall;
  // free . c, w_j^2 G_jj, and room for gains.
  float *s, *square, *gains;
  float *row_p, *row_u;
} pair_state;

BODY lanes load_up_to(size_t count, const float *x) {
  if (count >= WIDTH) return load(x);
  lanes some = {0};
  memcpy(&some, x, count * sizeof *x);
  return some;
}

BODY half_lanes lower(lanes x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7); }

BODY half_lanes upper(lanes x) { return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15); }

BODY lanes narrow(doubles low, doubles high) {
  return __builtin_shufflevector(__builtin_convertvector(low, half_lanes), __builtin_convertvector(high, half_lanes), 0, 1, 2, 3, 4, 5,
                                 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

BODY doubles load_doubles(const double *x) { return *(const doubles *)x; }

BODY doubles both(double x) { return (doubles){x, x, x, x, x, x, x, x}; }

BODY float largest_lane(lanes x) {
  float largest = x[0];
  for (int k = 1; k < WIDTH; k++) largest = x[k] > largest ? x[k] : largest;
  return largest;
}

// The lane of the largest value, the lower index where lanes are equal; at[k] is the index that lane k's value stands at, less k.
BODY size_t place_of_largest(lanes values, marks at, float largest) {
  size_t place = SIZE_MAX;
  for (int k = 0; k < WIDTH; k++) {
    size_t own = (size_t)at[k] + (size_t)k;
    if (values[k] == largest && own < place) place = own;
  }
  return place;
}

BODY marks all_at(size_t i) {
  int32_t at = (int32_t)i;
  return (marks){at, at, at, at, at, at, at, at, at, at, at, at, at, at, at, at};
}

typedef struct {
  size_t index;
  float value;
} best_entry;

// c += by_u G_u - by_p G_p and s anew; the largest s that can rise (below all where none can).
BODY best_entry move_pair(const pair_state *row, double by_u, const float *gu, double by_p, const float *gp) {
  lanes most = all(-INFINITY);
  marks at = {0};
  for (size_t i = 0; i < row->padded; i += WIDTH) {
    doubles low = load_doubles(row->c + i), high = load_doubles(row->c + i + 8);
    if (gu) {
      size_t left = i < row->n ? row->n - i : 0;
      lanes u = load_up_to(left, gu + i), p = load_up_to(left, gp + i);
      low += both(by_u) * __builtin_convertvector(lower(u), doubles) - both(by_p) * __builtin_convertvector(lower(p), doubles);
      high += both(by_u) * __builtin_convertvector(upper(u), doubles) - both(by_p) * __builtin_convertvector(upper(p), doubles);
      *(doubles *)(row->c + i) = low;
      *(doubles *)(row->c + i + 8) = high;
    }
    lanes s = load(row->free + i) * narrow(low, high);
    store(row->s + i, s);
    marks larger = (load(row->rise + i) > all(0)) & (s > most);
    most = either(larger, s, most);
    at = (larger & all_at(i)) | (~larger & at);
  }
  float largest = largest_lane(most);
  return (best_entry){place_of_largest(most, at, largest), largest};
}

// The entry that gains most by giving mass to p, and what it gains; 0 where none does.
BODY best_entry best_giver(const pair_state *row, size_t p, const float *gp) {
  best_entry best = {row->n, 0};
  float sp = row->s[p], square = row->square[p], room = row->rise[p], factor = -2 * row->w[p], least = 1e-7f * square + 1e-30f;
  for (size_t i = 0; i < row->padded; i += WIDTH) {
    size_t left = i < row->n ? row->n - i : 0;
    lanes slope = all(sp) - load(row->s + i), fall = load(row->fall + i);
    lanes curve = all(square) + load(row->square + i) + all(factor) * load(row->free + i) * load_up_to(left, gp + i);
    curve = __builtin_elementwise_max(curve, all(least));
    // No step gains more than slope^2 / curve; the division is left out where that is too little.
    if (!gather((fall > all(0)) & (slope > all(0)) & (slope * slope > all(best.value) * curve))) continue;
    lanes by = __builtin_elementwise_min(slope / curve, __builtin_elementwise_min(fall, all(room)));
    by = __builtin_elementwise_max(by, all(0));
    lanes gain = by * (slope + slope - by * curve);
    float largest = largest_lane(gain);
    if (largest > best.value) best = (best_entry){place_of_largest(gain, all_at(i), largest), largest};
  }
  return best;
}

BODY void set_relaxed(const pair_state *row, size_t j, float x) {
  row->x[j] = x;
  row->rise[j] = 1 - x;
  row->fall[j] = x;
}

// The amount that moves from u to p, exactly; rounds x and gives what really moved.
BODY void move_mass(const pair_state *row, size_t p, size_t u, double cross, double *to_p, double *from_u) {
  const espalier_gram *gram = row->gram;
  double wp = row->w[p], wu = row->w[u], xp = row->x[p], xu = row->x[u];
  double slope = wp * row->c[p] - wu * row->c[u];
  double curve = wp * wp * espalier_gram_entry(gram, p, p) + wu * wu * espalier_gram_entry(gram, u, u) - 2 * wp * wu * cross;
  double room = 1 - xp < xu ? 1 - xp : xu;
  double by = curve > 0 && slope / curve < room ? slope / curve : room;
  if (!(by > 0)) by = 0;
  set_relaxed(row, p, by == 1 - xp ? 1 : (float)(xp + by));
  set_relaxed(row, u, by == xu ? 0 : (float)(xu - by));
  *to_p = row->x[p] - xp;
  *from_u = xu - row->x[u];
}

BODY double relaxed_loss(const pair_state *row) {
  double loss = 0;
  for (size_t j = 0; j < row->n; j++) loss += (double)row->w[j] * (1 - (double)row->x[j]) * row->c[j];
  return loss;
}

BODY pair_state pairs_of(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, float *x, double *c,
                         float *scratch) {
  pair_state row = {gram->n,
                    padded,
                    gram,
                    w,
                    x,
                    c,
                    scratch,
                    scratch + padded,
                    scratch + 2 * padded,
                    scratch + 3 * padded,
                    scratch + 4 * padded,
                    scratch + 5 * padded,
                    scratch + 6 * padded,
                    scratch + 7 * padded};
  for (size_t j = 0; j < padded; j++) {
    int can = j < row.n && !(frozen[j / 64] >> j % 64 & 1);
    row.free[j] = can ? w[j] : 0;
    row.rise[j] = can ? 1 - x[j] : 0;
    row.fall[j] = can ? x[j] : 0;
    row.square[j] = can ? w[j] * w[j] * (float)espalier_gram_entry(gram, j, j) : 0;
  }
  return row;
}

// The gap is at most this, for any price: what mass gains above it where x can rise, and below it where x can fall.
BODY double gap_at_price(const pair_state *row, double price) {
  double gap = 0;
  for (size_t j = 0; j < row->n; j++) {
    double slope = (double)row->free[j] * row->c[j] - price;
    gap += slope * (slope > 0 ? row->rise[j] : -row->fall[j]);
  }
  return 2 * gap;
}

BODY uint64_t fw_pairs_body(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, size_t budget,
                            uint64_t limit, double tolerance, float *x, double *c, float *scratch, uint64_t *next, double *sums) {
  pair_state row = pairs_of(padded, gram, w, frozen, x, c, scratch);
  uint64_t steps = 0, pause = row.n / 4 + 1;
  float guess[2] = {0, 0};
  best_entry top = move_pair(&row, 0, 0, 0, 0);
  for (;; steps++) {
    // Nothing can rise where all is kept.
    int last = steps >= limit || !(top.value > -INFINITY);
    if (steps % pause == 0 || last) {
      double inside = 0;
      for (size_t j = 0; j < row.n; j++) inside += (double)row.s[j] * x[j];
      memset(next, 0, padded / 8);
      sums[0] = relaxed_loss(&row);
      double gap = 2 * (fw_largest_body(padded, budget, row.s, guess, row.gains, next) - inside), priced = gap_at_price(&row, top.value);
      sums[1] = priced < gap ? priced : gap;
      if (last || sums[1] <= tolerance * sums[0]) return steps;
    }
    size_t p = top.index;
    const float *gp = espalier_gram_row(gram, p, row.row_p);
    size_t u = best_giver(&row, p, gp).index;
    double to_p = 0, from_u = 0;
    if (u < row.n) move_mass(&row, p, u, gp[u], &to_p, &from_u);
    if (to_p == 0 && from_u == 0) {
      // Nothing moves any more in f32.
      limit = steps--;
      continue;
    }
    const float *gu = espalier_gram_row(gram, u, row.row_u);
    top = move_pair(&row, w[u] * from_u, gu, w[p] * to_p, gp);
  }
}
TIERS(uint64_t, fw_pairs,
      (size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, size_t budget, uint64_t limit, double tolerance,
       float *x, double *c, float *scratch, uint64_t *next, double *sums),
      (padded, gram, w, frozen, budget, limit, tolerance, x, c, scratch, next, sums))

// Twice what the best `keep` of a group gain over x.
BODY double group_gap(const pair_state *row, const uint64_t *frozen, size_t start, size_t size, size_t keep) {
  double gap = 0;
  for (size_t i = start; i < start + size; i++) {
    if (frozen[i / 64] >> i % 64 & 1) continue;
    double s = (double)row->w[i] * row->c[i];
    size_t before = 0;
    for (size_t j = start; j < start + size; j++) {
      double other = frozen[j / 64] >> j % 64 & 1 ? INFINITY : (double)row->w[j] * row->c[j];
      before += other > s || (other == s && j < i);
    }
    gap += s * ((before < keep) - (double)row->x[i]);
  }
  return 2 * gap;
}

// The best pair of a group takes its step; whether anything moved.
BODY int step_in_group(const pair_state *row, size_t start, size_t size) {
  const espalier_gram *gram = row->gram;
  size_t best_p = row->n, best_u = row->n;
  double best = 0, best_cross = 0;
  for (size_t p = start; p < start + size; p++) {
    if (!(row->rise[p] > 0)) continue;
    double wp = row->w[p], sp = wp * row->c[p], own = wp * wp * espalier_gram_entry(gram, p, p);
    for (size_t u = start; u < start + size; u++) {
      double wu = row->w[u], slope = sp - wu * row->c[u];
      if (!(row->fall[u] > 0) || u == p || !(slope > 0)) continue;
      double cross = espalier_gram_entry(gram, p, u);
      double curve = own + wu * wu * espalier_gram_entry(gram, u, u) - 2 * wp * wu * cross;
      double room = row->rise[p] < row->fall[u] ? row->rise[p] : row->fall[u];
      double by = curve > 0 && slope / curve < room ? slope / curve : room;
      double gain = by * (2 * slope - by * curve);
      if (gain <= best) continue;
      best = gain;
      best_p = p;
      best_u = u;
      best_cross = cross;
    }
  }
  if (best_p == row->n) return 0;
  double to_p, from_u;
  move_mass(row, best_p, best_u, best_cross, &to_p, &from_u);
  if (to_p == 0 && from_u == 0) return 0;
  const float *gp = espalier_gram_row(gram, best_p, row->row_p), *gu = espalier_gram_row(gram, best_u, row->row_u);
  double by_u = row->w[best_u] * from_u, by_p = row->w[best_p] * to_p;
  for (size_t j = 0; j < row->n; j++) row->c[j] += by_u * gu[j] - by_p * gp[j];
  return 1;
}

BODY uint64_t fw_group_pairs_body(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, size_t size,
                                  size_t keep, uint64_t limit, double tolerance, float *x, double *c, float *scratch, double *sums) {
  pair_state row = pairs_of(padded, gram, w, frozen, x, c, scratch);
  uint64_t steps = 0;
  for (;;) {
    uint64_t before = steps;
    sums[0] = relaxed_loss(&row);
    sums[1] = 0;
    for (size_t start = 0; start < row.n; start += size) sums[1] += group_gap(&row, frozen, start, size, keep);
    if (steps >= limit || sums[1] <= tolerance * sums[0]) return steps;
    // Groups that are nearly done wait: a step costs the same wherever it is taken.
    double least = 0.5 * sums[1] * (double)size / (double)row.n;
    for (size_t start = 0; start < row.n; start += size)
      for (size_t turn = 0; turn < 2 * size && steps < limit; turn++) {
        if (group_gap(&row, frozen, start, size, keep) <= least || !step_in_group(&row, start, size)) break;
        steps++;
      }
    if (steps == before) return steps;
  }
}
TIERS(uint64_t, fw_group_pairs,
      (size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, size_t size, size_t keep, uint64_t limit,
       double tolerance, float *x, double *c, float *scratch, double *sums),
      (padded, gram, w, frozen, size, keep, limit, tolerance, x, c, scratch, sums))

// ---- Steps of single entries at a price of mass, for budgets that many rows share.

// c -= by G_j; the entry whose best step at the price gains most, and what it gains.
BODY best_entry move_one(const pair_state *row, double by, const float *gj, float price) {
  lanes most = all(0);
  marks at = {0};
  for (size_t i = 0; i < row->padded; i += WIDTH) {
    doubles low = load_doubles(row->c + i), high = load_doubles(row->c + i + 8);
    if (gj) {
      lanes g = load_up_to(i < row->n ? row->n - i : 0, gj + i);
      low -= both(by) * __builtin_convertvector(lower(g), doubles);
      high -= both(by) * __builtin_convertvector(upper(g), doubles);
      *(doubles *)(row->c + i) = low;
      *(doubles *)(row->c + i + 8) = high;
    }
    lanes slope = load(row->free + i) * narrow(low, high) - all(price);
    lanes curve = __builtin_elementwise_max(load(row->square + i), all(1e-30f));
    lanes step = __builtin_elementwise_max(__builtin_elementwise_min(slope / curve, load(row->rise + i)), -load(row->fall + i));
    lanes gain = step * (slope + slope - step * curve);
    marks larger = gain > most;
    most = either(larger, gain, most);
    at = (larger & all_at(i)) | (~larger & at);
  }
  float largest = largest_lane(most);
  return (best_entry){place_of_largest(most, at, largest), largest};
}

BODY uint64_t fw_priced_body(size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, float price,
                             uint64_t limit, double tolerance, float *x, double *c, float *scratch, double *sums) {
  pair_state row = pairs_of(padded, gram, w, frozen, x, c, scratch);
  uint64_t steps = 0, pause = row.n / 4 + 1;
  best_entry best = move_one(&row, 0, 0, price);
  for (;; steps++) {
    int last = steps >= limit || !(best.value > 0);
    if (steps % pause == 0 || last) {
      sums[0] = relaxed_loss(&row);
      sums[1] = gap_at_price(&row, price);
      if (last || sums[1] <= tolerance * sums[0]) return steps;
    }
    size_t j = best.index;
    double curve = (double)w[j] * w[j] * espalier_gram_entry(gram, j, j), slope = (double)w[j] * c[j] - price, was = x[j];
    double to = curve > 0 ? was + slope / curve : slope > 0;
    set_relaxed(&row, j, to > 1 ? 1 : to < 0 ? 0 : (float)to);
    if (x[j] == was) {
      // Nothing moves any more in f32.
      limit = steps--;
      continue;
    }
    best = move_one(&row, w[j] * (x[j] - was), espalier_gram_row(gram, j, row.row_p), price);
  }
}
TIERS(uint64_t, fw_priced,
      (size_t padded, const espalier_gram *gram, const float *w, const uint64_t *frozen, float price, uint64_t limit, double tolerance,
       float *x, double *c, float *scratch, double *sums),
      (padded, gram, w, frozen, price, limit, tolerance, x, c, scratch, sums))
