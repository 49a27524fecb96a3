#include "tiers.h"
#include "exponential.h"

#include <math.h>

BODY float tanh_of(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

// Abramowitz and Stegun 7.1.26: at most 1.5e-7 off.
BODY float erf_of(float x) {
  float a = fabsf(x);
  float t = 1.0f / (1.0f + 0.3275911f * a);
  float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  float y = 1.0f - p * exponential(-a * a);
  return x < 0 ? -y : y;
}

BODY float silu_of(float x) { return x / (1.0f + exponential(-x)); }
BODY float gelu_of(float x) { return 0.5f * x * (1.0f + erf_of(x * 0.70710678118654752f)); }
BODY float gelu_tanh_of(float x) { return 0.5f * x * (1.0f + tanh_of(0.79788456080286536f * (x + 0.044715f * x * x * x))); }
BODY float gelu_quick_of(float x) { return x / (1.0f + exponential(-1.702f * x)); }
BODY float relu_of(float x) { return x > 0 ? x : 0; }
BODY float relu_squared_of(float x) { return x > 0 ? x * x : 0; }
BODY float sigmoid_of(float x) { return 1.0f / (1.0f + exponential(-x)); }

#define ACTIVATION(name)                                                   \
  BODY void name##_body(size_t n, float *x) {                              \
    for (size_t i = 0; i < n; i++) x[i] = name##_of(x[i]);                 \
  }                                                                        \
  TIERS(void, name, (size_t n, float *x), (n, x))

ACTIVATION(silu)
ACTIVATION(gelu)
ACTIVATION(gelu_tanh)
ACTIVATION(gelu_quick)
ACTIVATION(relu)
ACTIVATION(relu_squared)
ACTIVATION(sigmoid)
ACTIVATION(tanh)

// e^x - 1: near 0 by its series, since the difference would lose all digits.
BODY float exponential_less_one(float x) {
  float series = x * (1.0f + x * (0.5f + x * (0.16666667f + x * (0.041666668f + x * 0.0083333333f))));
  return fabsf(x) < 0.25f ? series : exponential(x) - 1.0f;
}

BODY void xielu_body(size_t n, float alpha_p, float alpha_n, float beta, float epsilon, float *x) {
  for (size_t i = 0; i < n; i++) {
    float v = x[i];
    float low = v < epsilon ? v : epsilon;
    x[i] = v > 0 ? alpha_p * v * v + beta * v : (exponential_less_one(low) - v) * alpha_n + beta * v;
  }
}
TIERS(void, xielu, (size_t n, float alpha_p, float alpha_n, float beta, float epsilon, float *x),
      (n, alpha_p, alpha_n, beta, epsilon, x))

BODY void multiply_body(size_t n, const float *restrict x, float *restrict y) {
  for (size_t i = 0; i < n; i++) y[i] *= x[i];
}
TIERS(void, multiply, (size_t n, const float *x, float *y), (n, x, y))

BODY void clamped_swiglu_body(size_t n, float limit, float alpha, const float *restrict up, float *restrict gate) {
  for (size_t i = 0; i < n; i++) {
    float g = gate[i] < limit ? gate[i] : limit;
    float u = up[i] < limit ? up[i] : limit;
    u = u > -limit ? u : -limit;
    gate[i] = (u + 1.0f) * g / (1.0f + exponential(-alpha * g));
  }
}
TIERS(void, clamped_swiglu, (size_t n, float limit, float alpha, const float *up, float *gate), (n, limit, alpha, up, gate))

BODY void add_weighted_body(size_t n, float factor, const float *restrict x, float *restrict y) {
  for (size_t i = 0; i < n; i++) y[i] += factor * x[i];
}
TIERS(void, add_weighted, (size_t n, float factor, const float *x, float *y), (n, factor, x, y))

BODY void scale_body(size_t n, float factor, float *x) {
  for (size_t i = 0; i < n; i++) x[i] *= factor;
}
TIERS(void, scale, (size_t n, float factor, float *x), (n, factor, x))

BODY void layer_norm_body(size_t n, float epsilon, const float *x, const float *restrict weight, const float *restrict bias,
                          float *y) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += x[i];
  float mean = (float)(sum / (double)n);
  double squares = 0;
  for (size_t i = 0; i < n; i++) {
    float d = x[i] - mean;
    squares += (double)d * d;
  }
  float scale = 1.0f / sqrtf((float)(squares / (double)n) + epsilon);
  for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}
TIERS(void, layer_norm, (size_t n, float epsilon, const float *x, const float *weight, const float *bias, float *y),
      (n, epsilon, x, weight, bias, y))

BODY void rope_interleaved_body(size_t half, size_t n, const float *restrict cosine, const float *restrict sine, float *restrict x) {
  for (size_t i = 0; i < half; i++) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosine[i] - b * sine[i];
    x[2 * i + 1] = b * cosine[i] + a * sine[i];
  }
}
TIERS(void, rope_interleaved, (size_t half, size_t n, const float *cosine, const float *sine, float *x),
      (half, n, cosine, sine, x))

BODY void attention_softmax_body(size_t n, size_t first, size_t live, float factor, float cap, size_t biased,
                                 const float *bias, float sink, float *x) {
  for (size_t i = first; i < live; i++) {
    float v = x[i] * factor;
    if (cap > 0) v = cap * tanh_of(v / cap);
    x[i] = biased ? v + bias[i] : v;
  }
  float largest = sink;
  for (size_t i = first; i < live; i++) largest = x[i] > largest ? x[i] : largest;
  double sum = sink > -INFINITY ? exponential(sink - largest) : 0;
  for (size_t i = first; i < live; i++) {
    x[i] = exponential(x[i] - largest);
    sum += x[i];
  }
  float scale = (float)(1.0 / sum);
  for (size_t i = 0; i < first; i++) x[i] = 0;
  for (size_t i = first; i < live; i++) x[i] *= scale;
  for (size_t i = live; i < n; i++) x[i] = 0;
}
TIERS(void, attention_softmax,
      (size_t n, size_t first, size_t live, float factor, float cap, size_t biased, const float *bias, float sink, float *x),
      (n, first, live, factor, cap, biased, bias, sink, x))
