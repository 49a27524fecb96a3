#ifndef ESPALIER_EXPONENTIAL_H
#define ESPALIER_EXPONENTIAL_H

#include "tiers.h"

#include <math.h>
#include <string.h>

// e^x within 2 units in the last place: x = k ln 2 + r, a polynomial for e^r (Cephes expf), and 2^k through the exponent bits.
BODY float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float k = rintf(x * 1.44269504088896341f);
  float r = x - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = ((int32_t)k + 127) << 23;
  float power;
  memcpy(&power, &bits, 4);
  return p * power;
}

#endif
