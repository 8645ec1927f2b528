// The CUDA kernel. A group of lanes computes a head of a query: each lane computes the taps of some samples, shares
// them with the group by shuffles, and sums its own 16 bytes of channels (4 lanes for 32 halves, 8 for 32 floats). For any
// other width, each channel has a thread of its own. Everything but the values is fp32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "half_types.h"
#include "idol_deform_attn_cuda.h"
#include "ms_deform_arith.h"

namespace idol {

struct CudaCall {
  const void *value;
  const void *merged;      // fused; null in a classic call
  const float *reference;  // fused
  const float *locations, *weights;  // classic
  void *out;
  int64_t threads;  // N * Q * M * lanes
  int64_t tokens, queries, reference_stride;
  int32_t heads, width, levels, points, reference_width;
  int32_t rows[IDOL_CUDA_MOST_LEVELS], columns[IDOL_CUDA_MOST_LEVELS], start[IDOL_CUDA_MOST_LEVELS];
};

__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float x, __half *to) { *to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16 *to) { *to = __float2bfloat16_rn(x); }

// `count` channels that are read and written together.
template <class T, int count> struct alignas(sizeof(T) * count) Pack {
  T at[count];
};

// The lanes of a group in one warp; a group of 1 does not communicate.
template <int lanes> struct Group {
  unsigned mask;
  int lane;

  __device__ __forceinline__ Group() {
    const int in_warp = static_cast<int>(threadIdx.x) % 32;
    lane = in_warp % lanes;
    mask = 0xffffffffu >> (32 - lanes) << (in_warp - lane);
  }
  template <class T> __device__ __forceinline__ T from(T what, int source) const {
    return __shfl_sync(mask, what, source, lanes);
  }
  __device__ __forceinline__ float largest(float x) const {
    for (int step = 1; step < lanes; step *= 2) {
      const float other = __shfl_xor_sync(mask, x, step, lanes);
      x = other > x ? other : x;
    }
    return x;
  }
  __device__ __forceinline__ float total(float x) const {
    for (int step = 1; step < lanes; step *= 2) x += __shfl_xor_sync(mask, x, step, lanes);
    return x;
  }
};
template <> struct Group<1> {
  static constexpr int lane = 0;
  template <class T> __device__ __forceinline__ T from(T what, int) const { return what; }
  __device__ __forceinline__ float largest(float x) const { return x; }
  __device__ __forceinline__ float total(float x) const { return x; }
};

// The arrays of one head of one query.
template <class U> struct Head {
  const U *pairs, *weights;
  const float *reference;
  bool fused;
};

template <class U> __device__ __forceinline__ Head<U> head_of(const CudaCall &call, int64_t item, int32_t head) {
  const int64_t samples = call.levels * call.points, all = call.heads * samples;
  if (call.merged == nullptr)
    return {reinterpret_cast<const U *>(call.locations) + (item * all + head * samples) * 2,
            reinterpret_cast<const U *>(call.weights) + item * all + head * samples, nullptr, false};
  const int64_t image = item / call.queries, query = item - image * call.queries;
  const U *row = static_cast<const U *>(call.merged) + item * 3 * all;
  return {row + head * samples * 2, row + 2 * all + head * samples,
          call.reference + image * call.reference_stride + query * call.levels * call.reference_width, true};
}

// The taps of one sample.
template <class U>
__device__ __forceinline__ Corners<float> corners_of(const CudaCall &call, const Head<U> &head, int32_t s) {
  const int32_t level = s / call.points;
  const float w = static_cast<float>(call.columns[level]), h = static_cast<float>(call.rows[level]);
  Axis across = location_axis(w), down = location_axis(h);
  if (head.fused) {
    const float *r = head.reference + level * call.reference_width;
    const bool box = call.reference_width == 4;
    const float points = static_cast<float>(call.points);
    across = offset_axis(r[0], box ? r[2] : 0.0f, box, w, points);
    down = offset_axis(r[1], box ? r[3] : 0.0f, box, h, points);
  }
  return corners<float, int32_t>(across.base + across.scale * widen(head.pairs[2 * s]),
                                 down.base + down.scale * widen(head.pairs[2 * s + 1]), w, h, call.columns[level],
                                 call.rows[level], call.start[level]);
}

// Returns the taps with their shares multiplied by the sample's weight, and -1 as the token of a corner that is not read. A
// corner outside is read only to propagate a weight that is not finite: 0 * infinity.
__device__ __forceinline__ Corners<float> weighted(Corners<float> taps, float weight) {
  for (int corner = 0; corner < 4; ++corner) {
    const float share = taps.share[corner] * weight;
    taps.token[corner] = taps.inside[corner] || share != share ? taps.token[corner] : -1;
    taps.share[corner] = share;
  }
  return taps;
}

template <class T, class U, int channels, int lanes>
__device__ __forceinline__ void sum_head(const CudaCall &call, const Head<U> &head, const T *value, T *out) {
  const Group<lanes> group;
  const int32_t samples = call.levels * call.points;
  float most = -INFINITY;
  for (int32_t s = group.lane; head.fused && s < samples; s += lanes) {
    const float logit = widen(head.weights[s]);
    most = logit > most ? logit : most;
  }
  most = group.largest(most);
  float total = 0.0f, sum[channels] = {};
  for (int32_t first = 0; first < samples; first += lanes) {
    const int32_t s = first + group.lane;
    Corners<float> own{{-1, -1, -1, -1}, {}, {}};
    if (s < samples) {
      const float raw = widen(head.weights[s]);
      const float weight = head.fused ? exp_nonpositive(raw - most) : raw;
      total += weight;
      own = weighted(corners_of(call, head, s), weight);
    }
#pragma unroll
    for (int source = 0; source < lanes; ++source) {
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const int32_t token = group.from(own.token[corner], source);
        const float share = group.from(own.share[corner], source);
        if (token < 0) continue;
        const T *from = value + static_cast<int64_t>(token) * (call.heads * call.width);
        const auto pack = *reinterpret_cast<const Pack<T, channels> *>(from);
#pragma unroll
        for (int i = 0; i < channels; ++i) sum[i] += widen(pack.at[i]) * share;
      }
    }
  }
  const float scale = head.fused ? 1.0f / group.total(total) : 1.0f;
  Pack<T, channels> result;
#pragma unroll
  for (int i = 0; i < channels; ++i) narrow(sum[i] * scale, &result.at[i]);
  *reinterpret_cast<Pack<T, channels> *>(out) = result;
}

// Each thread computes `channels` of a head; `lanes` threads share the taps.
template <class T, class U, int channels, int lanes>
__global__ void __launch_bounds__(128) deform_attn(const __grid_constant__ CudaCall call) {
  const int32_t parts = call.width / channels;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < call.threads; i += step) {
    const int64_t pair = i / parts, item = pair / call.heads;
    const auto head = static_cast<int32_t>(pair - item * call.heads);
    const int32_t channel = head * call.width + static_cast<int32_t>(i - pair * parts) * channels;
    const int64_t all = static_cast<int64_t>(call.heads) * call.width;
    const T *value = static_cast<const T *>(call.value) + item / call.queries * call.tokens * all + channel;
    T *out = static_cast<T *>(call.out) + item * all + channel;
    sum_head<T, U, channels, lanes>(call, head_of<U>(call, item, head), value, out);
  }
}

}  // namespace idol
