// The hot loops. Sizes come first, inputs are const, outputs come last, nothing overlaps unless said; no function
// allocates or fails. Matrices are row-major; `ld` is the distance between rows in elements.
#ifndef ESPALIER_CKERNELS_H
#define ESPALIER_CKERNELS_H

#include "counted.h"

#include <stddef.h>
#include <stdint.h>

// ---- isa.c

/// The instruction sets that a kernel is compiled for: 0 plain C, 1 AVX2 with FMA, 2 AVX-512.
int espalier_isa(void);
/// Uses at most this tier on the calling thread from now on, for comparing tiers in tests; returns the tier now in use.
int espalier_isa_limit(int tier);
/// What the calling thread is limited to.
int espalier_isa_limit_here(void);

// ---- convert.c: x[n] -> y[n]; what may come from a file is void, and lies at any address

void espalier_bf16_to_f32(size_t n, const void *x, float *y);
void espalier_f16_to_f32(size_t n, const void *x, float *y);
/// Rounds to nearest even; a NaN stays a NaN.
void espalier_f32_to_bf16(size_t n, const float *x, uint16_t *y);
void espalier_f32_to_f16(size_t n, const float *x, uint16_t *y);
/// Index of the first element that is infinite or not a number; n where all are finite.
size_t espalier_first_not_finite_f32(size_t n, const void *x);
/// Sets x[i] to +0 where bit i of `kept` (least significant bit first) is 0.
void espalier_mask_f32(size_t n, const uint8_t *kept, float *x);
/// The same for elements of 16 bits.
void espalier_mask_16(size_t n, const uint8_t *kept, uint16_t *x);

// ---- forward.c

/// y[i] = x[i] * weight[i] / sqrt(mean(x^2) + epsilon), one row of n; y may be x.
void espalier_rms_norm(size_t n, float epsilon, const float *x, const float *weight, float *y);
/// gate[i] = silu(gate[i]) * up[i].
void espalier_silu_multiply(size_t n, const float *up, float *gate);
/// y[i] += x[i].
void espalier_add(size_t n, const float *COUNTED(n) x, float *COUNTED(n) y);
/// Rotates pairs (x[i], x[i + half]) of one head by the angles whose cosines and sines are given, each of `half`.
void espalier_rope(size_t half, const float *cosine, const float *sine, float *x);
/// Row softmax of x times a positive factor, in place: x[0..<live] becomes a distribution, x[live..<n] becomes 0.
void espalier_softmax(size_t n, size_t live, float factor, float *x);
/// Largest of x and the sum of exp(x - largest), in f64.
void espalier_log_sum_exp(size_t n, const float *x, float *largest, double *sum);
/// sums[j] += x[j] and squares[j] += x[j]^2, in f64.
void espalier_add_moments(size_t n, const float *x, double *sums, double *squares);

// ---- activations.c

void espalier_silu(size_t n, float *x);
/// GELU with the error function, with tanh, and with a sigmoid.
void espalier_gelu(size_t n, float *x);
void espalier_gelu_tanh(size_t n, float *x);
void espalier_gelu_quick(size_t n, float *x);
void espalier_relu(size_t n, float *x);
void espalier_relu_squared(size_t n, float *x);
void espalier_sigmoid(size_t n, float *x);
void espalier_tanh(size_t n, float *x);
/// xIELU (arXiv 2411.13010): a parabola for x > 0, an exponential below.
void espalier_xielu(size_t n, float alpha_p, float alpha_n, float beta, float epsilon, float *x);
/// y[i] *= x[i].
void espalier_multiply(size_t n, const float *x, float *y);
/// gate[i] = (up + 1) gate sigmoid(alpha gate), both clamped by `limit`, as gpt-oss has it.
void espalier_clamped_swiglu(size_t n, float limit, float alpha, const float *up, float *gate);
/// y[i] += factor * x[i].
void espalier_add_weighted(size_t n, float factor, const float *x, float *y);
void espalier_scale(size_t n, float factor, float *x);
/// y[i] = (x[i] - mean) / sqrt(variance + epsilon) * weight[i] + bias[i], one row of n; y may be x.
void espalier_layer_norm(size_t n, float epsilon, const float *x, const float *weight, const float *bias, float *y);
/// Rotates pairs (x[2i], x[2i + 1]).
void espalier_rope_interleaved(size_t half, const float *cosine, const float *sine, float *x);
/// Row softmax of attention scores, in place: x[first..<live] becomes that of cap * tanh(factor * x / cap) + bias[i] (no cap if it is
/// 0, no bias if it is null), the rest 0. `sink` is one more score that takes its share and is dropped; -infinity for none.
void espalier_attention_softmax(size_t n, size_t first, size_t live, float factor, float cap, const float *bias, float sink, float *x);

// ---- recurrent.c

/// A depthwise causal convolution over the tokens of one sequence, x and y tokens x channels: y[t] = bias + sum of
/// weights[tap] * x[t + tap + 1 - width] for weights of width x channels.
void espalier_causal_convolution(size_t tokens, size_t channels, size_t width, const float *weights, const float *bias, const float *x,
                                 float *y);
/// The gated delta rule of one head over one sequence, with a state S of keys x values: S *= decay; S += k (strength (v - k^T S));
/// out = q^T S, for q and k divided by their norms and q by the root of `keys`. Rows of q, k and v are `stride` apart, those of decay
/// and strength `gate_stride`, those of out `out_stride`. `scratch` holds (keys + 1) * values + 2 * keys.
void espalier_delta_rule(size_t tokens, size_t keys, size_t values, size_t stride, const float *q, const float *k, const float *v,
                         size_t gate_stride, const float *decay, const float *strength, size_t out_stride, float *scratch, float *out);

// ---- select.c

/// scores[i] = |w[i]| * scale[i].
void espalier_scores(size_t n, const float *w, const float *scale, float *scores);
/// scores[i] = (|w[i]| / column_sums[i] + |w[i]| / row_sum) * scale[i]; a quotient by 0 is 0.
void espalier_relative_scores(size_t n, float row_sum, const float *w, const float *column_sums, const float *scale, float *scores);
/// sums[i] += |w[i]|, and the sum of the whole row.
double espalier_add_magnitudes(size_t n, const float *w, double *sums);
/// Bytes of 0 and 1 to bits, the least significant first; n bits.
void espalier_pack_bits(size_t n, const uint8_t *bytes, uint8_t *bits);
/// Bit i is 1 where x[i] is not zero of either sign.
void espalier_nonzero_bits(size_t n, const float *x, uint8_t *bits);
/// Bits to bytes of 0 and 1.
void espalier_unpack_bits(size_t n, const uint8_t *bits, uint8_t *bytes);

/// Keeps exactly `keep` of n scores (all >= 0, finite): bit-free mask of 0 and 1. Of equal scores the lower index goes first.
/// `scratch` holds n.
void espalier_select_kept(size_t n, size_t keep, const float *scores, uint32_t *scratch, uint8_t *kept);

#include "frankwolfe.h"
#include "fullscan.h"
#include "gemm.h"
#include "gram.h"
#include "rowends.h"
#include "swap.h"
#include "swapgroups.h"
#include "updates.h"

#endif
