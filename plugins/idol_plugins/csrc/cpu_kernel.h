// The kernel for any number of lanes. A source file defines its lanes in an unnamed namespace and calls
// `kernels_of<Lanes>()` of cpu_backward.h. Neither instantiates anything of the standard library (see
// ms_deform_arith.h for the reason).
//
// Lanes has: F and I, vectors of `count` floats and integers; `bits`, which packs a comparison into one bit per lane;
// `split`, which separates pairs into first and second elements; `add_totals`, which adds the totals of four vectors to
// four floats; `load` and `store` for each value type.
#pragma once

#include "cpu_call.h"
#include "half_types.h"

namespace idol {

template <class V, class T> IDOL_INLINE V load_as(const T *from) {
  V found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

template <class V, class T> IDOL_INLINE void store_as(T *to, V what) { std::memcpy(to, &what, sizeof what); }

// Scale and offset that convert a query's raw locations to cells, per sample; four arrays of `padded` elements.
struct Axes {
  float *x_base, *x_scale, *y_base, *y_scale;
};

// The samples of one head: raw locations as pairs, and logits or weights.
struct Raw {
  const float *pairs, *weights;
};

// The corners of a group of samples: token and share of each. Corner-major.
constexpr int kGroup = 16;
constexpr int kTaps = 4 * kGroup;
struct Taps {
  int32_t token[kTaps];
  float share[kTaps];
  uint64_t read;  // one bit per tap that must be read
};

IDOL_INLINE Axes axes_of(const Call &call, float *scratch) {
  return {scratch, scratch + call.padded, scratch + 2 * call.padded, scratch + 3 * call.padded};
}

IDOL_INLINE void set_axes(const Call &call, const float *reference, const Axes &axes) {
  const bool box = call.reference_width == 4;
  const float points = static_cast<float>(call.points);
  for (int64_t level = 0; level < call.levels; ++level) {
    const float w = call.samples.w[level * call.points], h = call.samples.h[level * call.points];
    Axis x = location_axis(w), y = location_axis(h);
    if (reference != nullptr) {
      const float *r = reference + level * call.reference_width;
      x = offset_axis(r[0], box ? r[2] : 0.0f, box, w, points);
      y = offset_axis(r[1], box ? r[3] : 0.0f, box, h, points);
    }
    for (int64_t s = level * call.points; s < (level + 1) * call.points; ++s) {
      axes.x_base[s] = x.base, axes.x_scale[s] = x.scale;
      axes.y_base[s] = y.base, axes.y_scale[s] = y.scale;
    }
  }
  for (int64_t s = call.levels * call.points; s < call.padded; ++s) {
    axes.x_base[s] = axes.y_base[s] = __builtin_nanf("");  // outside
    axes.x_scale[s] = axes.y_scale[s] = 0.0f;
  }
}

// Gives padding no weight. Once is enough, because a head's samples never overwrite it.
IDOL_INLINE void set_padding(const Call &call, float *own) {
  for (int64_t s = call.levels * call.points; s < call.padded; ++s) {
    own[2 * s] = own[2 * s + 1] = 0.0f;
    own[2 * call.padded + s] = call.merged != nullptr ? -__builtin_inff() : 0.0f;
  }
}

template <class Lanes> IDOL_INLINE void widen_to(const float *from, float *to, int64_t count) {
  std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
}

template <class Lanes, class T> IDOL_INLINE void widen_to(const T *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + Lanes::count <= count; i += Lanes::count) store_as(to + i, Lanes::load(from + i));
  for (; i < count; ++i) to[i] = widen(from[i]);
}

template <class Lanes, class T>
IDOL_INLINE Raw own_raw(const Call &call, const T *pairs, const T *weights, float *own) {
  const int64_t samples = call.levels * call.points;
  widen_to<Lanes>(pairs, own, 2 * samples);
  widen_to<Lanes>(weights, own + 2 * call.padded, samples);
  return {own, own + 2 * call.padded};
}

// Returns the samples of one head: in place if they are floats and fill their vectors, else copied to scratch memory.
template <class Lanes> IDOL_INLINE Raw raw_of(const Call &call, int64_t item, int64_t head, float *own) {
  const int64_t samples = call.levels * call.points, all = call.heads * samples;
  const float *pairs, *weights;
  if (call.merged == nullptr) {
    pairs = call.locations + (item * all + head * samples) * 2;
    weights = call.weights + item * all + head * samples;
  } else if (call.half_merged) {
    const Half *row = static_cast<const Half *>(call.merged) + item * 3 * all;
    return own_raw<Lanes>(call, row + head * samples * 2, row + 2 * all + head * samples, own);
  } else {
    const float *row = static_cast<const float *>(call.merged) + item * 3 * all;
    pairs = row + head * samples * 2;
    weights = row + 2 * all + head * samples;
  }
  if (samples == call.padded) return {pairs, weights};
  return own_raw<Lanes>(call, pairs, weights, own);
}

template <class Lanes> IDOL_INLINE float largest(const float *logits, int64_t count) {
  using F = typename Lanes::F;
  F most = load_as<F>(logits);
  for (int64_t s = Lanes::count; s < count; s += Lanes::count) {
    const F next = load_as<F>(logits + s);
    most = select(next > most, next, most);
  }
  return Lanes::largest(most);
}

// Computes the locations of samples s ... s + count in cells.
template <class Lanes>
IDOL_INLINE void location(const Axes &axes, const float *pairs, int64_t s, typename Lanes::F *x, typename Lanes::F *y) {
  using F = typename Lanes::F;
  Lanes::split(pairs + 2 * s, x, y);
  *x = load_as<F>(axes.x_base + s) + load_as<F>(axes.x_scale + s) * *x;
  *y = load_as<F>(axes.y_base + s) + load_as<F>(axes.y_scale + s) * *y;
}

template <class Lanes>
IDOL_INLINE Corners<typename Lanes::F> corners_of(const Call &call, const Axes &axes, const float *pairs, int64_t s) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  F x, y;
  location<Lanes>(axes, pairs, s, &x, &y);
  const Samples &of = call.samples;
  return corners<F, I>(x, y, load_as<F>(of.w + s), load_as<F>(of.h + s), load_as<I>(of.columns + s),
                       load_as<I>(of.rows + s), load_as<I>(of.start + s));
}

// Returns the weights of samples s ... s + count; in a fused call, before the division by their sum.
template <class Lanes>
IDOL_INLINE typename Lanes::F weight_of(const Call &call, const float *weights, int64_t s, float most) {
  using F = typename Lanes::F;
  const F raw = load_as<F>(weights + s);
  return call.merged != nullptr ? exp_nonpositive<F>(raw - most) : raw;
}

// Computes the taps of samples [begin, end) and returns the sum of their weights.
template <class Lanes>
IDOL_INLINE typename Lanes::F find_taps(const Call &call, const Axes &axes, const Raw &raw, float most, int64_t begin,
                                        int64_t end, Taps *taps) {
  using F = typename Lanes::F;
  F total{};
  taps->read = 0;
  for (int64_t s = begin; s < end; s += Lanes::count) {
    const F weight = weight_of<Lanes>(call, raw.weights, s, most);
    total += weight;
    const Corners<F> found = corners_of<Lanes>(call, axes, raw.pairs, s);
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t at = corner * kGroup + s - begin;
      const F share = found.share[corner] * weight;
      // Corners outside are not read, except to propagate a weight that is not finite: 0 * infinity.
      taps->read |= Lanes::bits(found.inside[corner] | (share != share)) << at;
      store_as(taps->token + at, found.token[corner]);
      store_as(taps->share + at, share);
    }
  }
  return total;
}

template <class Lanes, int R, class T>
IDOL_INLINE void add_tap(const T *value, int64_t stride, const Taps &taps, int i, typename Lanes::F *sum) {
  const T *from = value + taps.token[i] * stride;
  for (int r = 0; r < R; ++r) sum[r] += Lanes::load(from + r * Lanes::count) * taps.share[i];
}

// Sums R vectors of channels over the taps, in U independent chains to hide the latency of an addition.
template <class Lanes, int R, int U, class T>
IDOL_INLINE void add_taps(const T *value, int64_t stride, const Taps &taps, typename Lanes::F (*sums)[R]) {
  if (taps.read == ~uint64_t{0}) {
    for (int i = 0; i < kTaps; i += U)
      for (int u = 0; u < U; ++u) add_tap<Lanes, R>(value, stride, taps, i + u, sums[u]);
    return;
  }
  uint64_t left = taps.read;
  while (left != 0) {
    for (int u = 0; u < U; ++u) {
      if (left == 0) break;
      const int i = __builtin_ctzll(left);
      left &= left - 1;
      add_tap<Lanes, R>(value, stride, taps, i, sums[u]);
    }
  }
}

// Computes one head of one query, R vectors of channels at a time.
template <class Lanes, int R, class T>
IDOL_INLINE void one_head(const Call &call, const Axes &axes, const Raw &raw, const T *value, T *out) {
  using F = typename Lanes::F;
  constexpr int U = R >= 8 ? 1 : 8 / R;
  const int64_t stride = call.heads * call.width;
  const float most = call.merged != nullptr ? largest<Lanes>(raw.weights, call.padded) : 0.0f;
  for (int64_t channel = 0; channel < call.width; channel += R * Lanes::count) {
    F sums[U][R] = {};
    F total{};
    for (int64_t s = 0; s < call.padded; s += kGroup) {
      Taps taps;
      const int64_t end = s + kGroup < call.padded ? s + kGroup : call.padded;
      total += find_taps<Lanes>(call, axes, raw, most, s, end, &taps);
      add_taps<Lanes, R, U>(value + channel, stride, taps, sums);
    }
    const float scale = call.merged != nullptr ? 1.0f / Lanes::total(total) : 1.0f;
    for (int r = 0; r < R; ++r) {
      F sum = sums[0][r];
      for (int u = 1; u < U; ++u) sum += sums[u][r];
      Lanes::store(sum * scale, out + channel + r * Lanes::count);
    }
  }
}

// A work item: a query of an image.
struct Item {
  int64_t image, query, index;
};

IDOL_INLINE Item item_of(const Call &call, int64_t i) {
  const int64_t image = i / call.queries, turn = i - image * call.queries;
  const int64_t query = call.order != nullptr ? call.order[turn] : turn;
  return {image, query, image * call.queries + query};
}

template <class Lanes, int R, class T>
IDOL_INLINE void range(const Call &call, float *scratch, int64_t begin, int64_t end) {
  const Axes axes = axes_of(call, scratch);
  float *own = scratch + 4 * call.padded;
  set_padding(call, own);
  if (call.merged == nullptr) set_axes(call, nullptr, axes);
  for (int64_t i = begin; i < end; ++i) {
    const Item item = item_of(call, i);
    if (call.merged != nullptr) {
      const float *of_image = call.reference + item.image * call.reference_stride;
      set_axes(call, of_image + item.query * call.levels * call.reference_width, axes);
    }
    const T *value = static_cast<const T *>(call.value) + item.image * call.tokens * call.heads * call.width;
    T *out = static_cast<T *>(call.out) + item.index * call.heads * call.width;
    for (int64_t head = 0; head < call.heads; ++head) {
      const Raw raw = raw_of<Lanes>(call, item.index, head, own);
      one_head<Lanes, R, T>(call, axes, raw, value + head * call.width, out + head * call.width);
    }
  }
}

// Returns the number of vectors that hold so many channels.
template <class Lanes> constexpr int registers_for(int channels) {
  return Lanes::count >= 4 ? channels / Lanes::count : 1;
}

// For heads of 32 channels or a multiple, the sum is in four registers of AVX2 or two of AVX-512, and in half as many
// for multiples of 16, so that a head's samples are located once. Other heads use one register at a time.
template <class Lanes, class T> void range_kernel(const Call &call, float *scratch, int64_t begin, int64_t end) {
  if (call.width % 32 == 0)
    range<Lanes, registers_for<Lanes>(32), T>(call, scratch, begin, end);
  else if (call.width % 16 == 0)
    range<Lanes, registers_for<Lanes>(16), T>(call, scratch, begin, end);
  else
    range<Lanes, 1, T>(call, scratch, begin, end);
}

}  // namespace idol
