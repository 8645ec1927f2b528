// Operations of vectors of any length, in the vector types of GCC 9 and clang 12 or newer.
#pragma once

#include "cpu_backward.h"

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define IDOL_SHUFFLE(a, b, type, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef IDOL_SHUFFLE
#define IDOL_SHUFFLE(a, b, type, ...) __builtin_shuffle(a, b, type{__VA_ARGS__})
#endif

// Defines a source's vector types. A macro, because each source needs its own types (see ms_deform_arith.h).
#define IDOL_VECTORS(bytes)                                            \
  namespace {                                                          \
  using F = float __attribute__((vector_size(bytes)));                 \
  using I = int32_t __attribute__((vector_size(bytes)));               \
  using Words = uint16_t __attribute__((vector_size((bytes) / 2)));    \
  }                                                                    \
  namespace idol {                                                     \
  template <> struct Lane<F> : VectorLane<F, I> {};                    \
  }

namespace idol {

// The base of Lane<Float>.
template <class Float, class Integer> struct VectorLane {
  using Int = Integer;
  using Mask = Integer;
  static IDOL_INLINE Int to_int(Float x) { return __builtin_convertvector(x, Int); }
  static IDOL_INLINE Float to_float(Int x) { return __builtin_convertvector(x, Float); }
  static IDOL_INLINE Float as_float(Int x) { return load_as<Float>(&x); }
};

// The base of a source's Lanes; Words is a vector of as many uint16_t.
template <class Float, class Integer, class Words> struct VectorLanes {
  using F = Float;
  using I = Integer;
  static constexpr int count = sizeof(Float) / sizeof(float);

  static IDOL_INLINE F load(const float *from) { return load_as<F>(from); }
  static IDOL_INLINE F load(const Bfloat *from) {
    const I wide = __builtin_convertvector(load_as<Words>(from), I) << 16;
    return load_as<F>(&wide);
  }
  static IDOL_INLINE F load(const Half *from) {
    F found;
    for (int i = 0; i < count; ++i) found[i] = widen(from[i]);
    return found;
  }
  template <class T> static IDOL_INLINE void store(F what, T *to) {
    for (int i = 0; i < count; ++i) narrow(what[i], to + i);
  }
  static IDOL_INLINE void store(F what, float *to) { store_as(to, what); }

  static IDOL_INLINE float largest(F x) {
    float most = x[0];
    for (int i = 1; i < count; ++i) most = x[i] > most ? x[i] : most;
    return most;
  }
  static IDOL_INLINE float total(F x) {
    float sum = x[0];
    for (int i = 1; i < count; ++i) sum += x[i];
    return sum;
  }
  static IDOL_INLINE uint64_t bits(I mask) {
    uint64_t found = 0;
    for (int i = 0; i < count; ++i) found |= static_cast<uint64_t>(mask[i] & 1) << i;
    return found;
  }
};

}  // namespace idol
