// The arithmetic of multi-scale deformable attention for a CPU's scalars and vectors, and for a CUDA thread.
//
// F is float or a vector of floats, I is int32_t or a vector of as many; a comparison of F gives bool or I. Functions
// here never read memory. Indices stay in their level for every location (NaN, infinite, far outside).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define IDOL_INLINE __host__ __device__ __forceinline__
#else
// Always inline: the linker must never choose a copy compiled for AVX-512 for a processor without it.
#define IDOL_INLINE inline __attribute__((always_inline))
#endif

namespace idol {

template <class F> struct Lane;
template <> struct Lane<float> {
  using Int = int32_t;
  using Mask = bool;
  static IDOL_INLINE Int to_int(float x) { return static_cast<Int>(x); }
  static IDOL_INLINE float to_float(Int x) { return static_cast<float>(x); }
  static IDOL_INLINE float as_float(Int x) {
#if defined(__CUDA_ARCH__)
    return __int_as_float(x);
#else
    float bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
  }
};

template <class M, class T> IDOL_INLINE T select(M mask, T yes, T no) { return mask ? yes : no; }

// Returns e^x of x <= 0 to about 1e-7; NaN stays NaN, and results below the normal numbers become 0.
template <class F> IDOL_INLINE F exp_nonpositive(F x) {
  using L = Lane<F>;
  constexpr float lowest = -87.0f;
  // False for NaN, whose conversion to an integer is undefined, and for x > 0: if one logit is NaN, the maximum of the
  // other logits may be too small.
  const auto normal = (x > lowest) & (x <= 0.0f);
  const F safe = select(normal, x, F{} + lowest);
  const auto power = L::to_int(safe * 1.44269504f - 0.5f);
  const F n = L::to_float(power);
  const F r = (safe - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts; the first has few bits
  F e = F{} + 1.0f / 5040;
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  // A multiplication by 2^23, because some compilers reject a left shift of a signed number.
  const F found = e * L::as_float((power + 127) * (1 << 23));
  return select(normal, found, select(x == x, F{}, x));
}

// One axis of a sample: cells = base + scale * raw, relative to the centre of the first cell.
struct Axis {
  float base, scale;
};

// The axis of a fused call: `raw` is an offset in cells from a point, or in 1 / (2 P) of a box's side.
IDOL_INLINE Axis offset_axis(float centre, float side, bool box, float size, float points) {
  return {centre * size - 0.5f, box ? side * size * (0.5f / points) : 1.0f};
}

// The axis of a classic call: `raw` is a location in [0, 1].
IDOL_INLINE Axis location_axis(float size) { return {-0.5f, size}; }

// The four cells around a sample, in the order (top, left), (top, right), (bottom, left), (bottom, right).
template <class F> struct Corners {
  typename Lane<F>::Int token[4];    // always in this level, even if the corner lies outside
  typename Lane<F>::Mask inside[4];
  F share[4];                        // 0 outside
};

// The two cells around a location on one axis, and their shares.
template <class F> struct Cut {
  typename Lane<F>::Int cell[2];
  typename Lane<F>::Mask inside[2];
  F share[2];
};

template <class F, class I> IDOL_INLINE Cut<F> cut(F at, F size, I count) {
  using L = Lane<F>;
  const auto near = (at > -1.0f) & (at < size);  // false for NaN and infinities
  const F safe = select(near, at, F{} - 1.0f);
  const I whole = L::to_int(safe);
  const I low = whole + select(safe < L::to_float(whole), I{} - 1, I{});  // floor; -1 ... size - 1
  const I high = low + 1;
  const F part = safe - L::to_float(low);
  Cut<F> found;
  found.inside[0] = near & (low >= 0);
  found.inside[1] = near & (high < count);
  found.cell[0] = select(low >= 0, low, I{});
  found.cell[1] = select(high < count, high, low);
  found.share[0] = select(found.inside[0], 1.0f - part, F{});
  found.share[1] = select(found.inside[1], part, F{});
  return found;
}

template <class F, class I>
IDOL_INLINE Corners<F> corners(const Cut<F> &across, const Cut<F> &down, I columns, I start) {
  Corners<F> found;
  for (int dy = 0; dy < 2; ++dy) {
    const I row = start + down.cell[dy] * columns;
    for (int dx = 0; dx < 2; ++dx) {
      found.token[2 * dy + dx] = row + across.cell[dx];
      found.inside[2 * dy + dx] = down.inside[dy] & across.inside[dx];
      found.share[2 * dy + dx] = down.share[dy] * across.share[dx];
    }
  }
  return found;
}

template <class F, class I> IDOL_INLINE Corners<F> corners(F x, F y, F w, F h, I columns, I rows, I start) {
  return corners<F, I>(cut(x, w, columns), cut(y, h, rows), columns, start);
}

// A bilinear sample of the four corners, 0 outside, and its slopes per cell. On the grid itself, where the slope has a
// kink, the slope is the one to the right and downwards, as in `cut`.
template <class F> struct Slope {
  F value, x, y;
};

template <class F> IDOL_INLINE Slope<F> slope(const F (&across)[2], const F (&down)[2], const F (&at)[4]) {
  const F top = at[0] * across[0] + at[1] * across[1], bottom = at[2] * across[0] + at[3] * across[1];
  return {top * down[0] + bottom * down[1], (at[1] - at[0]) * down[0] + (at[3] - at[2]) * down[1],
          (at[2] - at[0]) * across[0] + (at[3] - at[1]) * across[1]};
}

// The slope along an axis with respect to the reference's centre and side, through `offset_axis`. A sample outside has
// no slope for any offset.
struct Pull {
  float centre, side;
};

IDOL_INLINE Pull pull(float slope, float raw, float size, float points) {
  return {slope * size, slope == 0.0f ? 0.0f : slope * raw * size * (0.5f / points)};
}

}  // namespace idol
