// The gradients of the fused form for any number of lanes. A work item is one head of one image: no other item adds to
// its slice of value's gradient. So threads need no locks, and the result does not depend on the number of threads.
#pragma once

#include "cpu_kernel.h"

namespace idol {

// The weighted taps of a group, their shares on the two axes, and each tap's product with the output's gradient.
struct GradTaps {
  Taps taps;
  float across[2][kGroup], down[2][kGroup];
  float product[kTaps];
};

// Intermediate results for a head's samples, `padded` elements each, and the output's gradient.
struct GradScratch {
  float *weight, *product, *x, *y, *out;
};

IDOL_INLINE GradScratch grad_scratch_of(const Call &call, float *scratch) {
  float *own = scratch + scratch_floats(call);
  return {own, own + call.padded, own + 2 * call.padded, own + 3 * call.padded, own + 4 * call.padded};
}

// Computes the softmax over a head's logits; 0 for padding.
template <class Lanes> IDOL_INLINE void find_weights(const Call &call, const float *logits, float *weight) {
  using F = typename Lanes::F;
  const float most = largest<Lanes>(logits, call.padded);
  F total{};
  for (int64_t s = 0; s < call.padded; s += Lanes::count) {
    const F raw = weight_of<Lanes>(call, logits, s, most);
    total += raw;
    store_as(weight + s, raw);
  }
  const float scale = 1.0f / Lanes::total(total);
  for (int64_t s = 0; s < call.padded; s += Lanes::count) store_as(weight + s, load_as<F>(weight + s) * scale);
}

// Computes the taps of samples [begin, end).
template <class Lanes>
IDOL_INLINE void find_grad_taps(const Call &call, const Axes &axes, const float *pairs, const float *weight,
                                int64_t begin, int64_t end, GradTaps *found) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  const Samples &of = call.samples;
  found->taps.read = 0;
  for (int64_t s = begin; s < end; s += Lanes::count) {
    const int64_t in = s - begin;
    F x, y;
    location<Lanes>(axes, pairs, s, &x, &y);
    const I columns = load_as<I>(of.columns + s);
    const Cut<F> across = cut<F, I>(x, load_as<F>(of.w + s), columns);
    const Cut<F> down = cut<F, I>(y, load_as<F>(of.h + s), load_as<I>(of.rows + s));
    for (int side = 0; side < 2; ++side) {
      store_as(found->across[side] + in, across.share[side]);
      store_as(found->down[side] + in, down.share[side]);
    }
    const Corners<F> corner = corners<F, I>(across, down, columns, load_as<I>(of.start + s));
    for (int i = 0; i < 4; ++i) {
      const int64_t at = i * kGroup + in;
      found->taps.read |= Lanes::bits(corner.inside[i]) << at;
      store_as(found->taps.token + at, corner.token[i]);
      store_as(found->taps.share + at, corner.share[i] * load_as<F>(weight + s));
      store_as(found->product + at, F{});
    }
  }
}

// Adds one tap's share of the output's gradient to value's gradient `to`; returns the sum of products, per lane.
template <class Lanes, int R, class T>
IDOL_INLINE typename Lanes::F grad_tap(const T *from, float *to, float share, const typename Lanes::F (&out)[R]) {
  typename Lanes::F sum = Lanes::load(from) * out[0];
  for (int r = 1; r < R; ++r) sum += Lanes::load(from + r * Lanes::count) * out[r];
  if (to != nullptr)
    for (int r = 0; r < R; ++r) {
      float *const at = to + r * Lanes::count;
      Lanes::store(Lanes::load(at) + out[r] * share, at);
    }
  return sum;
}

// Processes R vectors of channels of every tap.
template <class Lanes, int R, class T>
IDOL_INLINE void grad_channels(const T *value, float *to, int64_t stride, const float *out, GradTaps *found) {
  using F = typename Lanes::F;
  constexpr int together = 4;  // the totals of four taps cost little more than one
  const Taps &taps = found->taps;
  F own[R];
  for (int r = 0; r < R; ++r) own[r] = Lanes::load(out + r * Lanes::count);
  for (int first = 0; first < kTaps; first += together) {
    const auto read = static_cast<unsigned>(taps.read >> first) & 15u;
    if (read == 0) continue;
    F sums[together] = {};
    for (int u = 0; u < together; ++u) {
      if ((read >> u & 1u) == 0) continue;
      const int64_t at = taps.token[first + u] * stride;
      sums[u] = grad_tap<Lanes, R>(value + at, to == nullptr ? to : to + at, taps.share[first + u], own);
    }
    Lanes::add_totals(sums, found->product + first);
  }
}

// Computes the gradients of weight and location of samples [begin, end) from their taps' products.
template <class Lanes>
IDOL_INLINE void grad_samples(const GradTaps &found, const GradScratch &own, int64_t begin, int64_t end) {
  using F = typename Lanes::F;
  for (int64_t s = begin; s < end; s += Lanes::count) {
    const int64_t in = s - begin;
    F across[2], down[2], at[4];
    for (int side = 0; side < 2; ++side) {
      across[side] = load_as<F>(found.across[side] + in);
      down[side] = load_as<F>(found.down[side] + in);
    }
    for (int i = 0; i < 4; ++i) at[i] = load_as<F>(found.product + i * kGroup + in);
    const Slope<F> sample = slope<F>(across, down, at);
    const F weight = load_as<F>(own.weight + s);
    store_as(own.product + s, sample.value);
    store_as(own.x + s, sample.x * weight);
    store_as(own.y + s, sample.y * weight);
  }
}

// Writes one head of a row of merged's gradient.
template <class Lanes>
IDOL_INLINE void write_merged(const Call &call, const Axes &axes, const GradScratch &own, int64_t head, float *row) {
  using F = typename Lanes::F;
  const int64_t samples = call.levels * call.points;
  float *const pairs = row + head * samples * 2, *const logits = row + (2 * call.heads + head) * samples;
  F sum{};
  for (int64_t s = 0; s < call.padded; s += Lanes::count)
    sum += load_as<F>(own.weight + s) * load_as<F>(own.product + s);
  const float mean = Lanes::total(sum);
  for (int64_t s = 0; s < samples; ++s) {
    pairs[2 * s] = own.x[s] * axes.x_scale[s];
    pairs[2 * s + 1] = own.y[s] * axes.y_scale[s];
    logits[s] = own.weight[s] * (own.product[s] - mean);
  }
}

// Computes one head's part of the gradient of a query's reference, [L, 2 or 4].
IDOL_INLINE void write_reference(const Call &call, const GradScratch &own, const float *pairs, float *to) {
  const int64_t width = call.reference_width;
  const float points = static_cast<float>(call.points);
  for (int64_t level = 0; level < call.levels; ++level) {
    float sum[4] = {};
    for (int64_t s = level * call.points; s < (level + 1) * call.points; ++s) {
      const Pull x = pull(own.x[s], pairs[2 * s], call.samples.w[s], points);
      const Pull y = pull(own.y[s], pairs[2 * s + 1], call.samples.h[s], points);
      sum[0] += x.centre, sum[1] += y.centre;
      sum[2] += x.side, sum[3] += y.side;
    }
    for (int64_t i = 0; i < width; ++i) to[level * width + i] = sum[i];
  }
}

template <class T> IDOL_INLINE void prefetch_tap(const T *value, int64_t stride, int64_t width, int32_t token) {
  constexpr int64_t line = 64 / sizeof(T);
  const T *from = value + token * stride;
  for (int64_t i = 0; i < width; i += line) __builtin_prefetch(from + i);
}

// Computes one head of one query.
template <class Lanes, int R, class T>
IDOL_INLINE void grad_query(const Call &call, const Axes &axes, const Raw &raw, const T *value, float *to,
                            const GradScratch &own) {
  const int64_t stride = call.heads * call.width;
  find_weights<Lanes>(call, raw.weights, own.weight);
  for (int64_t s = 0; s < call.padded; s += kGroup) {
    GradTaps found;
    const int64_t end = s + kGroup < call.padded ? s + kGroup : call.padded;
    find_grad_taps<Lanes>(call, axes, raw.pairs, own.weight, s, end, &found);
    for (int i = 0; i < kTaps && end - s == kGroup; ++i) {
      prefetch_tap(value, stride, R * Lanes::count, found.taps.token[i]);
      if (to != nullptr) prefetch_tap(to, stride, R * Lanes::count, found.taps.token[i]);
    }
    for (int64_t channel = 0; channel < call.width; channel += R * Lanes::count)
      grad_channels<Lanes, R>(value + channel, to == nullptr ? to : to + channel, stride, own.out + channel, &found);
    grad_samples<Lanes>(found, own, s, end);
  }
}

IDOL_INLINE void prefetch_bytes(const void *from, int64_t bytes) {
  constexpr int64_t line = 64;
  for (int64_t i = 0; i < bytes; i += line) __builtin_prefetch(static_cast<const char *>(from) + i);
}

// Prefetches the parts of long rows that a query reads and writes, which hardware prefetchers do not predict.
template <class T> IDOL_INLINE void prefetch_query(const GradCall &grad, int64_t index, int64_t head) {
  const Call &call = grad.call;
  const int64_t samples = call.levels * call.points, all = call.heads * samples;
  const int64_t pairs = index * 3 * all + head * samples * 2, logits = index * 3 * all + 2 * all + head * samples;
  const int64_t size = call.half_merged ? sizeof(Half) : sizeof(float);
  const char *merged = static_cast<const char *>(call.merged);
  prefetch_bytes(merged + pairs * size, 2 * samples * size);
  prefetch_bytes(merged + logits * size, samples * size);
  prefetch_bytes(static_cast<const T *>(grad.out) + (index * call.heads + head) * call.width,
                 call.width * static_cast<int64_t>(sizeof(T)));
  if (grad.merged == nullptr) return;
  prefetch_bytes(grad.merged + pairs, 2 * samples * static_cast<int64_t>(sizeof(float)));
  prefetch_bytes(grad.merged + logits, samples * static_cast<int64_t>(sizeof(float)));
}

IDOL_INLINE void clear_head(const Call &call, float *to) {
  for (int64_t token = 0; token < call.tokens; ++token)
    std::memset(to + token * call.heads * call.width, 0, sizeof(float) * static_cast<size_t>(call.width));
}

constexpr int64_t kAhead = 2;  // prefetch distance in queries

template <class Lanes, int R, class T>
IDOL_INLINE void grad_head(const GradCall &grad, int64_t image, int64_t head, float *scratch) {
  const Call &call = grad.call;
  const Axes axes = axes_of(call, scratch);
  float *const raw_own = scratch + 4 * call.padded;
  const GradScratch own = grad_scratch_of(call, scratch);
  const int64_t all = call.heads * call.width, slice = image * call.tokens * all + head * call.width;
  const T *value = static_cast<const T *>(call.value) + slice;
  float *const to = grad.value == nullptr ? nullptr : grad.value + slice;
  if (to != nullptr) clear_head(call, to);
  for (int64_t turn = 0; turn < call.queries; ++turn) {
    const Item item = item_of(call, image * call.queries + turn);
    if (turn + kAhead < call.queries)
      prefetch_query<T>(grad, item_of(call, image * call.queries + turn + kAhead).index, head);
    const int64_t width = call.levels * call.reference_width;
    set_axes(call, call.reference + image * call.reference_stride + item.query * width, axes);
    const Raw raw = raw_of<Lanes>(call, item.index, head, raw_own);
    widen_to<Lanes>(static_cast<const T *>(grad.out) + item.index * all + head * call.width, own.out, call.width);
    grad_query<Lanes, R>(call, axes, raw, value, to, own);
    if (grad.merged != nullptr)
      write_merged<Lanes>(call, axes, own, head, grad.merged + item.index * 3 * call.heads * call.levels * call.points);
    if (grad.reference != nullptr) {
      const int64_t part = (image * call.heads + head) * call.queries + item.query;
      write_reference(call, own, raw.pairs, grad.reference + part * width);
    }
  }
}

template <class Lanes, int R, class T>
IDOL_INLINE void grad_range(const GradCall &grad, float *scratch, int64_t begin, int64_t end) {
  set_padding(grad.call, scratch + 4 * grad.call.padded);
  for (int64_t i = begin; i < end; ++i)
    grad_head<Lanes, R, T>(grad, i / grad.call.heads, i % grad.call.heads, scratch);
}

template <class Lanes, class T> void grad_kernel(const GradCall &grad, float *scratch, int64_t begin, int64_t end) {
  if (grad.call.width % 32 == 0)
    grad_range<Lanes, registers_for<Lanes>(32), T>(grad, scratch, begin, end);
  else if (grad.call.width % 16 == 0)
    grad_range<Lanes, registers_for<Lanes>(16), T>(grad, scratch, begin, end);
  else
    grad_range<Lanes, 1, T>(grad, scratch, begin, end);
}

template <class Lanes> constexpr Kernels kernels_of() {
  return {{range_kernel<Lanes, float>, range_kernel<Lanes, Half>, range_kernel<Lanes, Bfloat>},
          {grad_kernel<Lanes, float>, grad_kernel<Lanes, Half>, grad_kernel<Lanes, Bfloat>}};
}

}  // namespace idol
