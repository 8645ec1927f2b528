// The type `__half` and its conversions, by the CPU kernel's arithmetic.
#pragma once

#include "half_types.h"

struct __half {
  uint16_t bits;
};
inline float __half2float(__half x) { return idol::widen(idol::Half{x.bits}); }
inline __half __float2half_rn(float x) {
  idol::Half rounded;
  idol::narrow(x, &rounded);
  return {rounded.bits};
}
