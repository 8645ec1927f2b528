// Candidates for heads of 32 channels, until a measurement chooses between them and the kernel of cuda_kernel.cuh.
//
// A team of lanes computes a head of a query. Its lanes form `split` groups, and each group sums its share of the samples:
// a lane computes the taps of one sample, its group receives them by shuffles, and every lane reads its own `channels` of
// a tap. The reads of `ahead` samples start before the first is used. Then the groups add their sums.
//
// All 32 lanes of a warp stay together, so every shuffle has the full mask.
#pragma once

#include "cuda_kernel.cuh"

namespace idol {

constexpr unsigned kFullWarp = 0xffffffffu;

// The lanes of a team or a group, which are neighbours in a full warp.
template <int lanes> struct Lanes {
  static __device__ __forceinline__ int rank() { return static_cast<int>(threadIdx.x) % lanes; }
  template <class V> static __device__ __forceinline__ V from(V what, int source) {
    return __shfl_sync(kFullWarp, what, source, lanes);
  }
  static __device__ __forceinline__ float largest(float x) {
#pragma unroll
    for (int step = 1; step < lanes; step *= 2) {
      const float other = __shfl_xor_sync(kFullWarp, x, step, lanes);
      x = other > x ? other : x;
    }
    return x;
  }
  static __device__ __forceinline__ float total(float x) {
#pragma unroll
    for (int step = 1; step < lanes; step *= 2) x += __shfl_xor_sync(kFullWarp, x, step, lanes);
    return x;
  }
};

// Adds the sums of `split` groups of `lanes`. Afterwards a lane has the totals of the first channels / split of `sum`;
// returns which of its channels these are.
template <int channels, int lanes, int split>
__device__ __forceinline__ int add_groups(float (&sum)[channels]) {
  int first = 0, count = channels;
#pragma unroll
  for (int step = split / 2; step > 0; step /= 2) {
    const bool upper = (Lanes<32>::rank() / lanes & step) != 0;
    count /= 2;
#pragma unroll
    for (int i = 0; i < channels / 2; ++i) {
      if (i >= count) break;
      const float kept = upper ? sum[i + count] : sum[i], given = upper ? sum[i] : sum[i + count];
      sum[i] = kept + __shfl_xor_sync(kFullWarp, given, step * lanes);
    }
    first += upper ? count : 0;
  }
  return first;
}

// Read instead of a tap outside. The alternative, a read under a condition, makes the compiler wait for the reads before it.
__device__ const uint4 kZeros{};

// Adds the samples of this group's lanes to `sum`.
//
// Args: left: number of the team's samples from here on. value: this lane's first channel of the first token. row: bytes
// of a token.
template <class T, int channels, int lanes, int split, int ahead>
__device__ __forceinline__ void add_samples(const Corners<float> &own, int32_t left, const char *value, uint32_t row,
                                            float (&sum)[channels]) {
#pragma unroll 1  // otherwise the compiler starts more reads, until registers spill
  for (int source = 0; source < lanes; source += ahead) {
    if (source * split >= left) break;
    Pack<T, channels> packs[4 * ahead];
    float shares[4 * ahead];
#pragma unroll
    for (int i = 0; i < 4 * ahead; ++i) {
      const int32_t token = Lanes<lanes>::from(own.token[i % 4], source + i / 4);
      shares[i] = Lanes<lanes>::from(own.share[i % 4], source + i / 4);
      const char *cell = value + uint64_t{static_cast<uint32_t>(token)} * row;
      const void *from = token >= 0 ? cell : reinterpret_cast<const char *>(&kZeros);
      packs[i] = *static_cast<const Pack<T, channels> *>(from);
    }
#pragma unroll
    for (int i = 0; i < 4 * ahead; ++i) {
#pragma unroll
      for (int channel = 0; channel < channels; ++channel) sum[channel] += widen(packs[i].at[channel]) * shares[i];
    }
  }
}

// `write` is false for a team that repeats another one's head so that its warp is complete.
template <class T, class U, int channels, int split, int ahead>
__device__ __forceinline__ void sum_by_team(const CudaCall &call, const Head<U> &head, const T *value, T *out, bool write) {
  constexpr int lanes = 32 / channels, team = lanes * split;
  const int group = Lanes<team>::rank() / lanes, lane = Lanes<lanes>::rank();
  const int32_t samples = call.levels * call.points;
  const char *mine = reinterpret_cast<const char *>(value + lane * channels);
  const auto row = static_cast<uint32_t>(call.heads * call.width * static_cast<int32_t>(sizeof(T)));
  float most = -INFINITY, total = 0.0f, sum[channels] = {};
  for (int32_t begin = 0; begin < samples; begin += team) {
    const int32_t s = begin + lane * split + group;  // a group's samples are its first lanes'
    float weight = 0.0f;
    Corners<float> own{};
    if (s < samples) {
      weight = widen(head.weights[s]);
      own = corners_of(call, head, s);
    }
    if (head.fused) {
      if (begin == 0) {  // here, so that the reads above do not wait for the maximum
        for (int32_t other = s; other < samples; other += team) {
          const float logit = widen(head.weights[other]);
          most = logit > most ? logit : most;
        }
        most = Lanes<team>::largest(most);
      }
      weight = s < samples ? exp_nonpositive(weight - most) : 0.0f;
    }
    total += weight;
    add_samples<T, channels, lanes, split, ahead>(weighted(own, weight), samples - begin, mine, row, sum);
  }
  const float scale = head.fused ? 1.0f / Lanes<team>::total(total) : 1.0f;
  const int first = lane * channels + add_groups<channels, lanes, split>(sum);
  Pack<T, channels / split> result;
#pragma unroll
  for (int i = 0; i < channels / split; ++i) narrow(sum[i] * scale, &result.at[i]);
  if (write) *reinterpret_cast<Pack<T, channels / split> *>(out + first) = result;
}

template <class T, class U, int channels, int split, int ahead, int block = 128>
__global__ void __launch_bounds__(block, 512 / block) deform_attn_team(const __grid_constant__ CudaCall call) {
  constexpr int team = 32 / channels * split;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x, whole = (call.threads + 31) / 32 * 32;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < whole; i += step) {
    const bool write = i < call.threads;
    const int64_t pair = write ? i / team : 0, item = pair / call.heads;
    const auto head = static_cast<int32_t>(pair - item * call.heads);
    const int64_t all = static_cast<int64_t>(call.heads) * call.width;
    const T *value = static_cast<const T *>(call.value) + item / call.queries * call.tokens * all + head * call.width;
    T *out = static_cast<T *>(call.out) + item * all + head * call.width;
    sum_by_team<T, U, channels, split, ahead>(call, head_of<U>(call, item, head), value, out, write);
  }
}

}  // namespace idol
