// The gradients of the fused form on a CUDA device. Eight lanes compute a head of a query, as in the forward kernel:
// each computes the taps of some samples and shares them by shuffles. Each lane adds to 4 channels of value's gradient
// at once, and multiplies its channels of value and of the output's gradient. The sum of the lanes' products goes to the
// lane that owns the sample. Everything but values and projections is fp32.
#pragma once

#include "cuda_kernel.cuh"

namespace idol {

constexpr int kGradLanes = 8;

// Each gradient may be null. The gradients of value and reference must be zero at the start.
struct CudaGradCall {
  CudaCall call;
  const void *out;   // gradient of the output, of value's type
  float *value;
  float *merged;
  float *reference;
};

template <int count> __device__ __forceinline__ void add_to(float *to, const float (&what)[count], float share) {
#pragma unroll
  for (int i = 0; i < count; ++i) atomicAdd(to + i, what[i] * share);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void add_to(float *to, const float (&what)[4], float share) {
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "f"(what[0] * share), "f"(what[1] * share), "f"(what[2] * share), "f"(what[3] * share)
               : "memory");
}
#endif

// Reduces eight sums over eight lanes and gives each lane one of them, in 7 shuffles instead of 24.
__device__ __forceinline__ float own_total(const Group<kGradLanes> &group, float (&parts)[kGradLanes]) {
#pragma unroll
  for (int step = kGradLanes / 2; step > 0; step /= 2) {
    const bool upper = (group.lane & step) != 0;
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const float kept = upper ? parts[i + step] : parts[i], given = upper ? parts[i] : parts[i + step];
      parts[i] = kept + __shfl_xor_sync(group.mask, given, step, kGradLanes);
    }
  }
  return parts[0];
}

// The arrays of one head of one query.
template <class T> struct GradHead {
  const T *value, *out;  // first channel of the head
  float *to;             // value's gradient, first channel of the head
  float *pairs, *logits;
  float *reference;  // [L, 2 or 4]
};

template <class T>
__device__ __forceinline__ GradHead<T> grad_head_of(const CudaGradCall &grad, int64_t item, int32_t head) {
  const CudaCall &call = grad.call;
  const int64_t samples = call.levels * call.points, image = item / call.queries;
  const int64_t all = static_cast<int64_t>(call.heads) * call.width, slice = image * call.tokens * all;
  const int32_t channel = head * call.width;
  float *const row = grad.merged == nullptr ? nullptr : grad.merged + item * 3 * call.heads * samples;
  const int64_t of_reference =
      image * call.reference_stride + (item - image * call.queries) * call.levels * call.reference_width;
  return {static_cast<const T *>(call.value) + slice + channel,
          static_cast<const T *>(grad.out) + item * all + channel,
          grad.value == nullptr ? nullptr : grad.value + slice + channel,
          row == nullptr ? nullptr : row + head * samples * 2,
          row == nullptr ? nullptr : row + (2 * call.heads + head) * samples,
          grad.reference == nullptr ? nullptr : grad.reference + of_reference};
}

struct Axes {
  Axis across, down;
};

// The taps of a sample of this level.
template <class U>
__device__ __forceinline__ Axes axes_of(const CudaCall &call, const Head<U> &head, int32_t level) {
  const float *r = head.reference + level * call.reference_width;
  const bool box = call.reference_width == 4;
  const float w = static_cast<float>(call.columns[level]), h = static_cast<float>(call.rows[level]);
  const float points = static_cast<float>(call.points);
  return {offset_axis(r[0], box ? r[2] : 0.0f, box, w, points), offset_axis(r[1], box ? r[3] : 0.0f, box, h, points)};
}

struct Cuts {
  Cut<float> across, down;
};

template <class U>
__device__ __forceinline__ Cuts cuts_of(const CudaCall &call, const Head<U> &head, int32_t level, int32_t s) {
  const Axes axes = axes_of(call, head, level);
  const int32_t columns = call.columns[level], rows = call.rows[level];
  const float x = axes.across.base + axes.across.scale * widen(head.pairs[2 * s]);
  const float y = axes.down.base + axes.down.scale * widen(head.pairs[2 * s + 1]);
  return {cut(x, static_cast<float>(columns), columns), cut(y, static_cast<float>(rows), rows)};
}

template <class U> struct Softmax {
  float most, scale;
  __device__ __forceinline__ float of(U logit) const { return exp_nonpositive(widen(logit) - most) * scale; }
};

template <class U>
__device__ __forceinline__ Softmax<U> softmax_of(const Group<kGradLanes> &group, const U *logits, int32_t samples) {
  float most = -INFINITY, total = 0.0f;
  for (int32_t s = group.lane; s < samples; s += kGradLanes) {
    const float logit = widen(logits[s]);
    most = logit > most ? logit : most;
  }
  most = group.largest(most);
  for (int32_t s = group.lane; s < samples; s += kGradLanes) total += exp_nonpositive(widen(logits[s]) - most);
  return {most, 1.0f / group.total(total)};
}

// Returns the product of one corner of each lane's sample with the output's gradient, and adds to value's gradient.
template <class T, int channels>
__device__ __forceinline__ float grad_corner(const Group<kGradLanes> &group, const GradHead<T> &head, int32_t width,
                                             int32_t stride, int32_t own_token, float own_share,
                                             const Pack<T, channels> &first) {
  float parts[kGradLanes] = {};
#pragma unroll
  for (int source = 0; source < kGradLanes; ++source) {
    const int32_t token = group.from(own_token, source);
    const float share = group.from(own_share, source);
    if (token < 0) continue;
    const int64_t at = static_cast<int64_t>(token) * stride;
    // For heads of 32 channels this loop runs once, with the lane's part of the output's gradient in registers.
    for (int32_t channel = group.lane * channels; channel < width; channel += kGradLanes * channels) {
      const auto value = *reinterpret_cast<const Pack<T, channels> *>(head.value + at + channel);
      const auto pack = channels == 1 ? *reinterpret_cast<const Pack<T, channels> *>(head.out + channel) : first;
      float out[channels];
#pragma unroll
      for (int i = 0; i < channels; ++i) {
        out[i] = widen(pack.at[i]);
        parts[source] += out[i] * widen(value.at[i]);
      }
      if (head.to != nullptr) add_to(head.to + at + channel, out, share);
      if (channels > 1) break;
    }
  }
  return own_total(group, parts);
}

// Adds the gradients of a reference by one sample, whose slopes are already weighted.
template <class T, class U>
__device__ __forceinline__ void add_reference(const CudaCall &call, const GradHead<T> &head, const Head<U> &raw,
                                              int32_t level, int32_t s, float slope_x, float slope_y) {
  const float points = static_cast<float>(call.points);
  const Pull x = pull(slope_x, widen(raw.pairs[2 * s]), static_cast<float>(call.columns[level]), points);
  const Pull y = pull(slope_y, widen(raw.pairs[2 * s + 1]), static_cast<float>(call.rows[level]), points);
  float *const to = head.reference + level * call.reference_width;
  atomicAdd(to, x.centre);
  atomicAdd(to + 1, y.centre);
  if (call.reference_width != 4) return;
  atomicAdd(to + 2, x.side);
  atomicAdd(to + 3, y.side);
}

template <class T, class U, int channels>
__device__ __forceinline__ void grad_one_head(const CudaGradCall &grad, const Head<U> &raw, const GradHead<T> &head) {
  const CudaCall &call = grad.call;
  const Group<kGradLanes> group;
  const int32_t samples = call.levels * call.points, stride = call.heads * call.width;
  const Softmax<U> softmax = softmax_of<U>(group, raw.weights, samples);
  Pack<T, channels> first{};
  if constexpr (channels > 1) first = *reinterpret_cast<const Pack<T, channels> *>(head.out + group.lane * channels);
  float mean = 0.0f;
  for (int32_t begin = 0; begin < samples; begin += kGradLanes) {
    const int32_t s = begin + group.lane, level = s < samples ? s / call.points : 0;
    float weight = 0.0f;
    Cuts cuts{};
    Corners<float> own{};
    if (s < samples) {
      weight = softmax.of(raw.weights[s]);
      cuts = cuts_of(call, raw, level, s);
      own = corners(cuts.across, cuts.down, call.columns[level], call.start[level]);
    }
    float at[4];
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
      at[corner] = grad_corner<T, channels>(group, head, call.width, stride, own.inside[corner] ? own.token[corner] : -1,
                                            own.share[corner] * weight, first);
    if (s >= samples) continue;
    const Slope<float> sample = slope(cuts.across.share, cuts.down.share, at);
    mean += weight * sample.value;
    const float x = sample.x * weight, y = sample.y * weight;
    if (head.pairs != nullptr) {
      const Axes axes = axes_of(call, raw, level);
      head.pairs[2 * s] = x * axes.across.scale;
      head.pairs[2 * s + 1] = y * axes.down.scale;
      head.logits[s] = sample.value;  // the mean is subtracted later
    }
    if (head.reference != nullptr) add_reference(call, head, raw, level, s, x, y);
  }
  mean = group.total(mean);
  if (head.logits == nullptr) return;
  for (int32_t s = group.lane; s < samples; s += kGradLanes)
    head.logits[s] = softmax.of(raw.weights[s]) * (head.logits[s] - mean);
}

// Each lane computes `channels` of a head: 4 of 32, else 1 in as many rounds as needed.
template <class T, class U, int channels>
__global__ void __launch_bounds__(128, 4) deform_attn_backward(const __grid_constant__ CudaGradCall grad) {
  const CudaCall &call = grad.call;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < call.threads; i += step) {
    const int64_t pair = i / kGradLanes, item = pair / call.heads;
    const auto head = static_cast<int32_t>(pair - item * call.heads);
    grad_one_head<T, U, channels>(grad, head_of<U>(call, item, head), grad_head_of<T>(grad, item, head));
  }
}

}  // namespace idol
