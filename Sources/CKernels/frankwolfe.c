// A step needs cv = ((1 - v) . w) G for the vertex v. From one step to the next few entries enter or leave the vertex, so cv changes by
// few rows of G. The cost is that of reading G: tiles of G stay in the second-level cache while all rows of the block add their changes,
// several changes at a time to a piece of cv that stays in registers.

#include "fwrow.h"

BODY espalier_fw_sums fw_step_body(size_t words, size_t padded, size_t n, float eta, const float *restrict w, const uint64_t *restrict frozen,
                                   const uint64_t *restrict vertex, const float *restrict cv, float *restrict x, float *restrict c,
                                   float *restrict s) {
  require(padded == 64 * words);
  float stay = 1 - eta;
  f64x8 loss = 0, inside = 0;
  for (size_t i = 0; i < padded; i += 16) {
    f32x16 xi = lesser16(load16(x + i) * stay + only16(members16(vertex, i), all16(eta)), all16(1));
    f32x16 ci = load16(c + i) * stay + load_up_to16(i < n ? n - i : 0, cv + i) * eta;
    f32x16 wc = load16(w + i) * ci;
    f32x16 si = only16(~members16(frozen, i), wc);
    store16(x + i, xi);
    store16(c + i, ci);
    store16(s + i, si);
    loss += folded((1 - xi) * wc);
    inside += folded(si * xi);
  }
  return (espalier_fw_sums){total8(loss), total8(inside)};
}
TIERS(espalier_fw_sums, fw_step,
      (size_t words, size_t padded, size_t n, float eta, const float *w, const uint64_t *frozen, const uint64_t *vertex, const float *cv,
       float *x, float *c, float *s),
      (words, padded, n, eta, w, frozen, vertex, cv, x, c, s))

BODY void fw_scores_body(size_t words, size_t padded, const float *restrict w, const uint64_t *restrict frozen,
                         const float *restrict c, float *restrict s) {
  require(padded == 64 * words);
  for (size_t i = 0; i < padded; i += 16) store16(s + i, only16(~members16(frozen, i), load16(w + i) * load16(c + i)));
}
TIERS(void, fw_scores, (size_t words, size_t padded, const float *w, const uint64_t *frozen, const float *c, float *s),
      (words, padded, w, frozen, c, s))

BODY double fw_vertex_loss_body(size_t words, size_t padded, size_t n, const float *restrict w, const uint64_t *restrict vertex,
                                const float *restrict cv) {
  require(padded == 64 * words);
  f64x8 loss = 0;
  for (size_t i = 0; i < padded; i += 16) loss += folded(only16(~members16(vertex, i), load16(w + i) * load_up_to16(i < n ? n - i : 0, cv + i)));
  return total8(loss);
}
TIERS(double, fw_vertex_loss, (size_t words, size_t padded, size_t n, const float *w, const uint64_t *vertex, const float *cv),
      (words, padded, n, w, vertex, cv))

void espalier_fw_outside(size_t words, size_t padded, size_t n, const float *w, const uint64_t *vertex, float *d) {
  require(padded == 64 * words && n <= padded);
  for (size_t i = 0; i < n; i++) d[i] = is_member(vertex, i) ? 0 : w[i];
}

size_t espalier_fw_changes(size_t words, size_t padded, const float *w, const uint64_t *next, uint64_t *vertex, size_t capacity,
                           espalier_fw_change *changes, size_t bounds, uint32_t *starts) {
  enum { TILE_WORDS = ESPALIER_FW_TILE / 64 };
  require(padded == 64 * words && bounds == (words + TILE_WORDS - 1) / TILE_WORDS + 1);
  size_t count = 0;
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
  starts[bounds - 1] = (uint32_t)count;
  return count;
}

enum { PIECE = 8 };

// cv[from ..< from + pieces * 16] += the changes' rows of G; `pieces` is a constant where this is inlined.
BODY void add_piece(size_t pieces, const espalier_fw_change *change, const espalier_fw_change *end, size_t n, const float *gram,
                    float *cv) {
  f32x16 sum[PIECE];
#pragma clang loop unroll(full)
  for (size_t k = 0; k < pieces; k++) sum[k] = load16(cv + k * 16);
  for (; change < end; change++) {
    const float *g = gram + change->index * n;
    float value = change->value;
#pragma clang loop unroll(full)
    for (size_t k = 0; k < pieces; k++) sum[k] += value * load16(g + k * 16);
  }
#pragma clang loop unroll(full)
  for (size_t k = 0; k < pieces; k++) store16(cv + k * 16, sum[k]);
}

BODY void fw_apply_body(size_t n, size_t first, size_t width, int backwards, size_t elements, const float *gram, size_t capacity,
                        size_t listed, const espalier_fw_change *changes, size_t tiles, size_t bounds, const uint32_t *starts,
                        size_t products, float *cv) {
  size_t rows = bounds / (tiles + 1);
  require(first + width <= n && elements == n * n && listed == rows * capacity && products >= rows * n);
  gram += first;
  cv += first;
  for (size_t done = 0; done < tiles; done++) {
    size_t tile = backwards ? tiles - 1 - done : done;
    for (size_t row = 0; row < rows; row++) {
      const uint32_t *at = starts + row * (tiles + 1) + tile;
      const espalier_fw_change *own = changes + row * capacity, *begin = own + at[0], *end = own + at[1];
      // Fetch the rows of G that come next into the second-level cache while this tile is in use.
      if (done + 1 < tiles) {
        const uint32_t *soon = backwards ? at - 1 : at + 1;
        for (const espalier_fw_change *change = own + soon[0]; change < own + soon[1]; change++)
          for (size_t j = 0; j < width; j += 16) __builtin_prefetch(gram + change->index * n + j, 0, 2);
      }
      if (begin == end) continue;
      float *c = cv + row * n;
      size_t j = 0;
      for (; j + PIECE * 16 <= width; j += PIECE * 16) add_piece(PIECE, begin, end, n, gram + j, c + j);
      for (; j + 16 <= width; j += 16) add_piece(1, begin, end, n, gram + j, c + j);
      for (; j < width; j++)
        for (const espalier_fw_change *change = begin; change < end; change++) c[j] += change->value * gram[change->index * n + j];
    }
  }
}
TIERS(void, fw_apply,
      (size_t n, size_t first, size_t width, int backwards, size_t elements, const float *gram, size_t capacity, size_t listed,
       const espalier_fw_change *changes, size_t tiles, size_t bounds, const uint32_t *starts, size_t products, float *cv),
      (n, first, width, backwards, elements, gram, capacity, listed, changes, tiles, bounds, starts, products, cv))
