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
/// The values in f64.
void espalier_f32_to_f64(size_t n, const float *COUNTED(n) x, double *COUNTED(n) y);
/// Index of the first element that is infinite or not a number; n if all are finite.
size_t espalier_first_not_finite_f32(size_t n, const void *x);
/// Sets x[i] to +0 if bit i of `kept` (least significant bit first) is 0.
void espalier_mask_f32(size_t n, size_t bytes, const uint8_t *COUNTED(bytes) kept, float *COUNTED(n) x);
/// The same for elements of 16 bits.
void espalier_mask_16(size_t n, size_t bytes, const uint8_t *COUNTED(bytes) kept, uint16_t *COUNTED(n) x);

// ---- forward.c

/// y[i] = x[i] * weight[i] / sqrt(mean(x^2) + epsilon), one row of n; y may be x.
void espalier_rms_norm(size_t n, float epsilon, const float *COUNTED(n) x, const float *COUNTED(n) weight, float *COUNTED(n) y);
/// gate[i] = silu(gate[i]) * up[i].
void espalier_silu_multiply(size_t n, const float *COUNTED(n) up, float *COUNTED(n) gate);
/// y[i] += x[i].
void espalier_add(size_t n, const float *COUNTED(n) x, float *COUNTED(n) y);
/// Rotates pairs (x[i], x[i + half]) of one head of n >= 2 * half by the angles with these cosines and sines.
void espalier_rope(size_t half, size_t n, const float *COUNTED(half) cosine, const float *COUNTED(half) sine, float *COUNTED(n) x);
/// Row softmax of x times a positive factor, in place, but for a factor: x[0..<live] becomes exp(factor * (x - largest)), x[live..<n]
/// becomes 0. Returns what makes a distribution of it.
float espalier_exponentials(size_t n, size_t live, float factor, float *COUNTED(n) x);
/// Largest of x and the sum of exp(x - largest), in f64.
void espalier_log_sum_exp(size_t n, const float *COUNTED(n) x, float *largest, double *sum);
/// Index of the first x that equals `value`; n if there is none.
size_t espalier_index_of(size_t n, const float *COUNTED(n) x, float value);
/// The sum of exp(x - largest) * (x - y), in f64: what a divergence of two softmaxes is made of.
double espalier_weighted_excess(size_t n, const float *COUNTED(n) x, float largest, const float *COUNTED(n) y);
/// sums[j] += x[j] and squares[j] += x[j]^2, in f64.
void espalier_add_moments(size_t n, const float *COUNTED(n) x, double *COUNTED(n) sums, double *COUNTED(n) squares);

// ---- activations.c

void espalier_silu(size_t n, float *COUNTED(n) x);
/// GELU with the error function, with tanh, and with a sigmoid.
void espalier_gelu(size_t n, float *COUNTED(n) x);
void espalier_gelu_tanh(size_t n, float *COUNTED(n) x);
void espalier_gelu_quick(size_t n, float *COUNTED(n) x);
void espalier_relu(size_t n, float *COUNTED(n) x);
void espalier_relu_squared(size_t n, float *COUNTED(n) x);
void espalier_sigmoid(size_t n, float *COUNTED(n) x);
void espalier_tanh(size_t n, float *COUNTED(n) x);
/// xIELU (arXiv 2411.13010): a parabola for x > 0, an exponential below.
void espalier_xielu(size_t n, float alpha_p, float alpha_n, float beta, float epsilon, float *COUNTED(n) x);
/// y[i] *= x[i].
void espalier_multiply(size_t n, const float *COUNTED(n) x, float *COUNTED(n) y);
/// gate[i] = (up + 1) gate sigmoid(alpha gate), both clamped by `limit`, as gpt-oss has it.
void espalier_clamped_swiglu(size_t n, float limit, float alpha, const float *COUNTED(n) up, float *COUNTED(n) gate);
/// y[i] += factor * x[i].
void espalier_add_weighted(size_t n, float factor, const float *COUNTED(n) x, float *COUNTED(n) y);
void espalier_scale(size_t n, float factor, float *COUNTED(n) x);
/// y[i] = (x[i] - mean) / sqrt(variance + epsilon) * weight[i] + bias[i], one row of n; y may be x.
void espalier_layer_norm(size_t n, float epsilon, const float *COUNTED(n) x, const float *COUNTED(n) weight, const float *COUNTED(n) bias, float *COUNTED(n) y);
/// Rotates pairs (x[2i], x[2i + 1]).
void espalier_rope_interleaved(size_t half, size_t n, const float *COUNTED(half) cosine, const float *COUNTED(half) sine, float *COUNTED(n) x);
/// Row softmax of attention scores, in place: x[first..<live] becomes that of cap * tanh(factor * x / cap) + bias[i] (no cap if it is
/// 0, no bias if `biased` is 0), the rest 0. `sink` is one more score that takes its share and is dropped; -infinity for none.
void espalier_attention_softmax(size_t n, size_t first, size_t live, float factor, float cap, size_t biased,
                                const float *COUNTED(biased) bias, float sink, float *COUNTED(n) x);

// ---- recurrent.c

/// A depthwise causal convolution over the tokens of one sequence, x and y tokens x channels: y[t] = bias + sum of
/// weights[tap] * x[t + tap + 1 - width] for weights of width x channels.
void espalier_causal_convolution(size_t tokens, size_t channels, size_t width, size_t taps, const float *COUNTED(taps) weights,
                                 const float *COUNTED(channels) bias, size_t n, const float *COUNTED(n) x, float *COUNTED(n) y);
/// The gated delta rule of one head over one sequence, with a state S of keys x values: S *= decay; S += k (strength (v - k^T S));
/// out = q^T S, for q and k divided by their norms and q by the root of `keys`. Rows of the states, of `stride` values, hold q, k and v
/// from these columns on; rows of decay and strength hold one value for each of `heads`; rows of out are `out_stride` apart and begin
/// at `out_column`. `scratch` holds (keys + 1) * values + 2 * keys, and begins with the state, which is 0 at first unless it `continues`.
void espalier_delta_rule(size_t tokens, size_t keys, size_t values, size_t stride, size_t n, const float *COUNTED(n) states, size_t q,
                         size_t k, size_t v, size_t heads, size_t head, size_t gates, const float *COUNTED(gates) decay,
                         const float *COUNTED(gates) strength, size_t scratch_count, float *COUNTED(scratch_count) scratch,
                         int continues, size_t out_stride, size_t out_column, size_t out_count, float *COUNTED(out_count) out);

#include "cachedattention.h"
#include "compact.h"
#include "dsnot.h"
#include "fewtokens.h"
#include "frankwolfe.h"
#include "gemm.h"
#include "gram.h"
#include "refit.h"
#include "rowloss.h"
#include "select.h"
#include "swap.h"
#include "updates.h"

#endif
