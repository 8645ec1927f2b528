// The type `__nv_bfloat16` and its conversions, by the CPU kernel's arithmetic.
#pragma once

#include "half_types.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return idol::widen(idol::Bfloat{x.bits}); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  idol::Bfloat rounded;
  idol::narrow(x, &rounded);
  return {rounded.bits};
}
