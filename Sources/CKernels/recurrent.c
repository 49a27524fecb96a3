#include "tiers.h"

#include <math.h>

// A depthwise causal convolution over the tokens of one sequence: weights are width x channels, the last tap is the token itself.
BODY void causal_convolution_body(size_t tokens, size_t channels, size_t width, size_t taps,
                                  const float *restrict weights, const float *restrict bias, size_t n, const float *restrict x,
                                  float *restrict y) {
  for (size_t t = 0; t < tokens; t++) {
    float *row = y + t * channels;
    for (size_t c = 0; c < channels; c++) row[c] = bias[c];
    for (size_t tap = 0; tap < width; tap++) {
      if (t + tap + 1 < width) continue;
      const float *in = x + (t + tap + 1 - width) * channels, *w = weights + tap * channels;
      for (size_t c = 0; c < channels; c++) row[c] += w[c] * in[c];
    }
  }
}
TIERS(void, causal_convolution,
      (size_t tokens, size_t channels, size_t width, size_t taps, const float *weights, const float *bias, size_t n, const float *x,
       float *y),
      (tokens, channels, width, taps, weights, bias, n, x, y))

BODY float inverse_norm(size_t n, const float *x) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
  return 1.0f / sqrtf((float)sum + 1e-6f);
}

// The gated delta rule of one head over one sequence. `scratch` holds keys x values of state, then keys, keys and values.
BODY void delta_rule_body(size_t tokens, size_t keys, size_t values, size_t stride, size_t n, const float *restrict states, size_t q,
                          size_t k, size_t v, size_t heads, size_t head, size_t gates, const float *restrict decay,
                          const float *restrict strength, size_t scratch_count, float *restrict scratch, int continues,
                          size_t out_stride, size_t out_column, size_t out_count, float *restrict out) {
  float *state = scratch, *query = state + keys * values, *key = query + keys, *delta = key + keys;
  for (size_t i = 0; i < keys * values && !continues; i++) state[i] = 0;
  float scale = 1.0f / sqrtf((float)keys);
  for (size_t t = 0; t < tokens; t++) {
    const float *row = states + t * stride, *qt = row + q, *kt = row + k, *vt = row + v;
    float *yt = out + t * out_stride + out_column;
    float qn = inverse_norm(keys, qt) * scale, kn = inverse_norm(keys, kt);
    for (size_t i = 0; i < keys; i++) {
      query[i] = qt[i] * qn;
      key[i] = kt[i] * kn;
    }
    float keep = decay[t * heads + head], beta = strength[t * heads + head];
    for (size_t j = 0; j < values; j++) delta[j] = 0;
    for (size_t i = 0; i < keys; i++) {
      float *row = state + i * values, ki = key[i];
      for (size_t j = 0; j < values; j++) {
        row[j] *= keep;
        delta[j] += row[j] * ki;
      }
    }
    for (size_t j = 0; j < values; j++) {
      delta[j] = (vt[j] - delta[j]) * beta;
      yt[j] = 0;
    }
    for (size_t i = 0; i < keys; i++) {
      float *row = state + i * values, ki = key[i], qi = query[i];
      for (size_t j = 0; j < values; j++) {
        row[j] += ki * delta[j];
        yt[j] += row[j] * qi;
      }
    }
  }
}
TIERS(void, delta_rule,
      (size_t tokens, size_t keys, size_t values, size_t stride, size_t n, const float *states, size_t q, size_t k, size_t v,
       size_t heads, size_t head, size_t gates, const float *decay, const float *strength, size_t scratch_count, float *scratch,
       int continues, size_t out_stride, size_t out_column, size_t out_count, float *out),
      (tokens, keys, values, stride, n, states, q, k, v, heads, head, gates, decay, strength, scratch_count, scratch, continues, out_stride,
       out_column, out_count, out))
