// Half-width floats as bits, and their conversion without special instructions.
#pragma once

#include <cstdint>
#include <cstring>

#include "ms_deform_arith.h"

namespace idol {

struct Half {
  uint16_t bits;
};

struct Bfloat {
  uint16_t bits;
};

IDOL_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

IDOL_INLINE float float_of(uint32_t bits) { return Lane<float>::as_float(static_cast<int32_t>(bits)); }

IDOL_INLINE float widen(float x) { return x; }
IDOL_INLINE float widen(Bfloat x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
IDOL_INLINE float widen(Half x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = (x.bits & 0x7fffu) << 13;
  const uint32_t exponent = x.bits & 0x7c00u;
  if (exponent == 0x7c00u) return float_of(sign | rest | 0x7f800000u);
  // Shift to a float's exponent; a subnormal is a multiple of 2^-24.
  if (exponent == 0) return float_of(sign | bits_of(static_cast<float>(x.bits & 0x3ffu) * 0x1p-24f));
  return float_of(sign | (rest + (112u << 23)));
}

// Rounds to nearest, ties to even, as in IEEE 754; NaN stays NaN.
IDOL_INLINE void narrow(float x, float *to) { *to = x; }
IDOL_INLINE void narrow(float x, Bfloat *to) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(x == x ? rounded : (bits >> 16) | 0x40u);
}
IDOL_INLINE void narrow(float x, Half *to) {
  const uint32_t sign = (bits_of(x) >> 16) & 0x8000u, size = bits_of(x) & 0x7fffffffu;
  uint32_t found;
  if (size > 0x7f800000u) {
    found = 0x7e00u;
  } else if (size >= 0x477ff000u) {  // 65520 and more
    found = 0x7c00u;
  } else if (size < 0x38800000u) {  // below 2^-14: adding 0.5 leaves a multiple of 2^-24 in the low bits
    found = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
  } else {
    found = (size - (112u << 23) + 0xfffu + ((size >> 13) & 1u)) >> 13;
  }
  to->bits = static_cast<uint16_t>(sign | found);
}

}  // namespace idol
