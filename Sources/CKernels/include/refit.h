#ifndef ESPALIER_REFIT_H
#define ESPALIER_REFIT_H

#include "counted.h"

// ---- refit.c: exchanges of weights for the loss after the kept ones are fitted
//
// They work on a tableau of m channels C and the right side b, a symmetric matrix of (m + 1) x `width` f32, width a multiple of 16 above
// m. With G the matrix of the system, S the kept channels, A = G_SS^-1, v = A b_S the fitted weights, r = b - G_CS v what is left of the
// right side and s = G_pp - G_pS A G_Sp, it holds
//
//   -A_uw          kept u, w
//   h_pu           pruned p, kept u: G_pS A_Su
//   s_p, ...       pruned p, q: G_pq - G_pS A G_Sq
//   v_u, r_p       in the last row and column
//   - b_S . v      in the corner
//
// A sweep on a channel (Goodnight, The American Statistician 33, 1979) moves it from one set to the other, exactly. Kept channels
// outside of C are accounted for if the first tableau is a Schur complement.

/// Fills the first tableau and what its Schur complement needs; nothing is kept in C yet.
///
///   b         right side of the system of all n channels
///   ridge     what is added to the diagonal of G
///   chosen    the m channels of the tableau
///   fixed     the k channels that are kept and not in it
///   factor    k x k: the lower triangle of G on `fixed`, column-major (the first index runs faster)
///   sides     (m + 1) x k: G between the m chosen and the fixed channels, and b of the fixed ones
void espalier_refit_gather(size_t n, size_t elements, const float *COUNTED(elements) gram, const float *COUNTED(n) ridge,
                           const float *COUNTED(n) b, size_t m, const uint32_t *COUNTED(m) chosen, size_t k,
                           const uint32_t *COUNTED(k) fixed, size_t squares, float *COUNTED(squares) factor, size_t side_values,
                           float *COUNTED(side_values) sides, size_t values, float *COUNTED(values) tableau);

/// Copies the lower triangle of a tableau to the upper one, and sweeps all kept channels in; kept[m] of 0 and 1.
void espalier_refit_begin(size_t m, const uint8_t *COUNTED(m) kept, size_t values, float *COUNTED(values) tableau, size_t floats,
                          float *COUNTED(floats) scratch);

/// What exchanges did: how many, and by how much the loss after the fit fell.
typedef struct {
  uint64_t moves;
  double gain;
} espalier_refit_outcome;

/// Makes the exchange that lowers the loss after the fit most, again and again, while it gains more than `least`, at most `limit` times.
/// Pruning u and restoring p of the same run of `span` channels, which divides m, gains
///
///   (r_p + h_pu v_u / A_uu)^2 / (s_p + h_pu^2 / A_uu) - v_u^2 / A_uu
///
/// Which of equally good ones goes first depends on the tableau alone. Scratch holds 4 `width` floats.
espalier_refit_outcome espalier_refit_exchange(size_t m, uint8_t *COUNTED(m) kept, size_t span, uint64_t limit, double least,
                                               size_t values, float *COUNTED(values) tableau, size_t floats,
                                               float *COUNTED(floats) scratch);

/// One weight of a row that may leave or join, and the change of the loss after the fit; positive for one that leaves.
typedef struct {
  uint32_t channel;
  float change;
} espalier_refit_price;

/// The cheapest kept channel of the tableau to prune, or the pruned one that gains most, `count` times, each after the ones before. The
/// tableau and `kept` follow. Returns how many there were.
size_t espalier_refit_prices(size_t m, uint8_t *COUNTED(m) kept, int restores, size_t values, float *COUNTED(values) tableau, size_t count,
                             espalier_refit_price *COUNTED(count) prices, size_t floats, float *COUNTED(floats) scratch);

#endif
