// Candidates for the CUDA kernel of 4 levels, 4 points and width 32, which gpu_candidates.py checks and times:
//
//   IDOL_ORDER    items of a block: 0 all heads of consecutive queries; 1 one head, of a tile of the map where the
//                 queries are the tokens, for taps that its neighbours have read
//   IDOL_SHARE    how lanes learn of each other's taps: 0 by shuffles, 1 through shared memory
//   IDOL_CHUNKS   16-byte reads of a lane at each tap: 1 or 2, for fewer instructions on where it lies
//   IDOL_BLOCK    threads of a block
//   IDOL_REDO     0: a corner outside is not read; 1: it lends its token from one inside, without a predicate, and a
//                 sum that is then not finite, as 0 * infinity is, is made anew as by 0
//   IDOL_SPLIT    groups of lanes that divide the samples of a head, at most a warp; 0: as many as the device has
//                 threads for, since a decoder's few queries leave it idle
//
// In all of them a lane finds the taps of consecutive samples, whose projections it reads as vectors; nothing branches
// on a tap; a tap is an offset of 32 bits.
#include <atomic>
#include <cstring>
#include <type_traits>

#include "call_checks.h"
#include "cuda_kernel.cuh"

#ifndef IDOL_ORDER
#define IDOL_ORDER 1
#endif
#ifndef IDOL_SHARE
#define IDOL_SHARE 1
#endif
#ifndef IDOL_CHUNKS
#define IDOL_CHUNKS 1
#endif
#ifndef IDOL_BLOCK
#define IDOL_BLOCK 128
#endif
#ifndef IDOL_REDO
#define IDOL_REDO 0
#endif
#ifndef IDOL_SPLIT
#define IDOL_SPLIT 1
#endif

namespace {

constexpr int kLevels = 4, kPoints = 4, kSamples = kLevels * kPoints, kWidth = 32;

struct Plan {
  const void *value, *merged;
  const float *reference;
  void *out;
  int64_t reference_stride;
  int32_t tokens, queries, heads, reference_width;
  int32_t rows[kLevels], columns[kLevels], start[kLevels];
  int32_t tile_rows, tile_columns, across[kLevels], first[kLevels];  // tiles across a level, and the first of it
};

// Of a sample: bytes from the image's first value, negative where nothing is to be read; and shares.
struct alignas(16) Taps {
  int32_t at[4];
};
struct alignas(16) Shares {
  float at[4];
};

// What lies there, or zeros where `tap` is negative; one instruction with a predicate, where the compiler would gather
// the comparisons of many taps first and run out of registers.
__device__ __forceinline__ uint4 read_if(int32_t tap, const char *at) {
  uint4 words;
  asm("{\n\t.reg .pred is;\n\tsetp.ge.s32 is, %4, 0;\n\tmov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\t"
      "mov.b32 %3, 0;\n\t@is ld.global.v4.b32 {%0, %1, %2, %3}, [%5];\n\t}"
      : "=&r"(words.x), "=&r"(words.y), "=&r"(words.z), "=&r"(words.w)
      : "r"(tap), "l"(at));
  return words;
}

__device__ __forceinline__ void expand(const uint4 &words, float (&to)[4], float) {
  to[0] = __uint_as_float(words.x), to[1] = __uint_as_float(words.y);
  to[2] = __uint_as_float(words.z), to[3] = __uint_as_float(words.w);
}
__device__ __forceinline__ void expand(const uint4 &words, float (&to)[8], __half) {
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    __half2 two;
    std::memcpy(&two, &all[i], sizeof two);
    const float2 wide = __half22float2(two);
    to[2 * i] = wide.x, to[2 * i + 1] = wide.y;
  }
}
__device__ __forceinline__ void expand(const uint4 &words, float (&to)[8], __nv_bfloat16) {
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    to[2 * i] = __uint_as_float(all[i] << 16), to[2 * i + 1] = __uint_as_float(all[i] & 0xffff0000u);
}

template <int bytes> struct WordOf;
template <> struct WordOf<16> { using type = uint4; };
template <> struct WordOf<8> { using type = uint2; };
template <> struct WordOf<4> { using type = uint32_t; };
template <> struct WordOf<2> { using type = unsigned short; };

// `count` elements as vectors of at most 16 bytes.
template <class U, int count> __device__ __forceinline__ void read(const U *from, float *to) {
  constexpr int whole = 16 / sizeof(U), step = count < whole ? count : whole;
  using Word = typename WordOf<step * sizeof(U)>::type;
#pragma unroll
  for (int i = 0; i < count; i += step) {
    const Word word = *reinterpret_cast<const Word *>(from + i);
    U held[step];
    std::memcpy(held, &word, sizeof word);
#pragma unroll
    for (int j = 0; j < step; ++j) to[i + j] = idol::widen(held[j]);
  }
}

// The query of this team, or -1, and its head.
template <int team> __device__ __forceinline__ int2 item_of(const Plan &plan) {
  constexpr int teams = IDOL_BLOCK / team;
  const int32_t own = static_cast<int32_t>(threadIdx.x) / team, block = static_cast<int32_t>(blockIdx.x);
#if IDOL_ORDER == 0
  const auto pair = static_cast<uint32_t>(block * teams + own), heads = static_cast<uint32_t>(plan.heads);
  const auto query = static_cast<int32_t>(pair / heads);
  return {query < plan.queries ? query : -1, static_cast<int32_t>(pair % heads)};
#else
  const int32_t head = block % plan.heads, tile = block / plan.heads;
  if (plan.tile_rows == 1) {
    const int32_t query = tile * teams + own;
    return {query < plan.queries ? query : -1, head};
  }
  const int level = (tile >= plan.first[1]) + (tile >= plan.first[2]) + (tile >= plan.first[3]);
  const int32_t inside = tile - plan.first[level], across = plan.across[level];
  const int32_t row = inside / across * plan.tile_rows + own / plan.tile_columns;
  const int32_t column = inside % across * plan.tile_columns + own % plan.tile_columns;
  const bool there = row < plan.rows[level] && column < plan.columns[level];
  return {there ? plan.start[level] + row * plan.columns[level] + column : -1, head};
#endif
}

template <class T, class U, int lanes, int split>
__global__ void __launch_bounds__(IDOL_BLOCK) candidate(const __grid_constant__ Plan plan) {
  constexpr int team = lanes * split, finders = team < kSamples ? team : kSamples, own = kSamples / finders;
  constexpr int each = finders / split;               // samples of a group in a turn
  [[maybe_unused]] constexpr int groups = 32 / lanes;  // of a warp
  constexpr int vector = 16 / sizeof(T), chunks = kWidth / lanes / vector;
  static_assert(chunks >= 1 && own >= 1 && each >= 1 && team <= 32, "a team is of one warp");
  const idol::Group<team> together;
  const int lane = together.lane % lanes, part = together.lane / lanes;
  const bool finds = team <= kSamples || together.lane < kSamples;
  const int2 item = item_of<team>(plan);
  const bool there = item.x >= 0;
  const int32_t query = there ? item.x : 0, head = item.y, stride = plan.heads * kWidth;
  const int64_t image = blockIdx.y, row = image * plan.queries + query;
  const U *merged = static_cast<const U *>(plan.merged) + row * (3 * kSamples * plan.heads);
  const char *value =
      static_cast<const char *>(plan.value) + (image * plan.tokens * stride + head * kWidth + lane * vector) * sizeof(T);

  const int first = finds ? together.lane * own : 0;
  float pairs[2 * own], weights[own];
  read<U, 2 * own>(merged + (head * kSamples + first) * 2, pairs);
  read<U, own>(merged + (2 * plan.heads + head) * kSamples + first, weights);
  // Before the lanes wait for each other: else a second wait for memory follows the first.
  const float *reference = plan.reference + image * plan.reference_stride + query * kLevels * plan.reference_width;
  constexpr int levels = (own + kPoints - 1) / kPoints;
  idol::Axis across[levels], down[levels];
#pragma unroll
  for (int i = 0; i < levels; ++i) {
    const int level = first / kPoints + i;
    const float *r = reference + level * plan.reference_width;
    const float *side = r + (plan.reference_width - 2);  // not a side, and not used, of a point
    const float columns = static_cast<float>(plan.columns[level]), rows = static_cast<float>(plan.rows[level]);
    const bool box = plan.reference_width == 4;
    across[i] = idol::offset_axis(r[0], side[0], box, columns, static_cast<float>(kPoints));
    down[i] = idol::offset_axis(r[1], side[1], box, rows, static_cast<float>(kPoints));
    // Else the compiler makes two copies of all that follows: one for a scale of 1.
    asm("" : "+f"(across[i].scale), "+f"(down[i].scale));
  }
  float most = -INFINITY, total = 0.0f;
#pragma unroll
  for (int s = 0; s < own; ++s) most = weights[s] > most ? weights[s] : most;
  most = together.largest(most);
#pragma unroll
  for (int s = 0; s < own; ++s) {
    weights[s] = idol::exp_nonpositive(weights[s] - most);
    total += finds ? weights[s] : 0.0f;
  }

  float sum[chunks * vector] = {};
#if IDOL_SHARE
  __shared__ Taps all_taps[IDOL_BLOCK];
  __shared__ Shares all_shares[IDOL_BLOCK];
  const int in_warp = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) - in_warp;
  const int to = warp + (in_warp / team * split + together.lane / each) + together.lane % each * groups;
  const int from = warp + in_warp / lanes;
#endif

  const auto walk = [&](auto whether) {
    constexpr bool careful = decltype(whether)::value;
#pragma unroll
    for (int s = 0; s < own; ++s) {
      const int level = (first + s) / kPoints, i = s / kPoints;
      const int32_t rows = plan.rows[level], columns = plan.columns[level], start = plan.start[level];
      const idol::Corners<float> found = idol::corners<float, int32_t>(
          across[i].base + across[i].scale * pairs[2 * s], down[i].base + down[i].scale * pairs[2 * s + 1],
          static_cast<float>(columns), static_cast<float>(rows), columns, rows, start);
      Taps taps;
      Shares shares;
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const int32_t bytes = found.token[corner] * stride * static_cast<int32_t>(sizeof(T));
        taps.at[corner] = careful && !(found.inside[corner] && there) ? -1 : bytes;
        shares.at[corner] = found.share[corner] * weights[s];
      }
#if IDOL_SHARE
      __syncwarp();
      if (finds) all_taps[to] = taps, all_shares[to] = shares;
      __syncwarp();
#endif
#pragma unroll
      for (int k = 0; k < each; ++k) {
#if IDOL_SHARE
        const Taps t = all_taps[from + k * groups];
        const Shares f = all_shares[from + k * groups];
#else
        Taps t;
        Shares f;
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          t.at[corner] = together.from(taps.at[corner], part * each + k);
          f.at[corner] = together.from(shares.at[corner], part * each + k);
        }
#endif
        uint4 words[4][chunks];
#pragma unroll
        for (int corner = 0; corner < 4; ++corner)
#pragma unroll
          for (int chunk = 0; chunk < chunks; ++chunk) {
            const char *at = value + static_cast<uint32_t>(t.at[corner]) + chunk * lanes * 16;
            words[corner][chunk] =
                careful ? read_if(t.at[corner], at) : *reinterpret_cast<const uint4 *>(at);
          }
#pragma unroll
        for (int corner = 0; corner < 4; ++corner)
#pragma unroll
          for (int chunk = 0; chunk < chunks; ++chunk) {
            float wide[vector];
            expand(words[corner][chunk], wide, T{});
#pragma unroll
            for (int i = 0; i < vector; ++i) sum[chunk * vector + i] += wide[i] * f.at[corner];
          }
      }
    }
  };
#if IDOL_REDO == 0
  walk(std::true_type{});
#else
  walk(std::false_type{});
  float all = 0.0f;
#pragma unroll
  for (int i = 0; i < chunks * vector; ++i) all += sum[i];
  if (__any_sync(0xffffffffu, !(all - all == 0.0f))) {
#pragma unroll
    for (int i = 0; i < chunks * vector; ++i) sum[i] = 0.0f;
    walk(std::true_type{});
  }
#endif
#pragma unroll
  for (int step = lanes; step < team; step *= 2)
#pragma unroll
    for (int i = 0; i < chunks * vector; ++i) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
  const float scale = 1.0f / together.total(total);
  if (!there || part != 0) return;
  T *out = static_cast<T *>(plan.out) + row * stride + head * kWidth + lane * vector;
#pragma unroll
  for (int chunk = 0; chunk < chunks; ++chunk) {
    T result[vector];
#pragma unroll
    for (int i = 0; i < vector; ++i) idol::narrow(sum[chunk * vector + i] * scale, &result[i]);
    uint4 words;
    std::memcpy(&words, result, sizeof words);
    *reinterpret_cast<uint4 *>(out + chunk * lanes * vector) = words;
  }
}

template <class T, class U, int lanes, int split>
cudaError_t launch_split(const idol_fused &call, cudaStream_t stream) {
  constexpr int teams = IDOL_BLOCK / (lanes * split);
  const idol_sizes &s = call.sizes;
  Plan plan{};
  plan.value = call.value, plan.merged = call.merged, plan.reference = call.reference, plan.out = call.out;
  plan.reference_stride = call.reference_images == 1 ? 0 : s.queries * s.levels * call.reference_width;
  plan.tokens = static_cast<int32_t>(s.tokens), plan.queries = static_cast<int32_t>(s.queries);
  plan.heads = static_cast<int32_t>(s.heads), plan.reference_width = static_cast<int32_t>(call.reference_width);
  plan.tile_rows = 1, plan.tile_columns = teams;
  if (IDOL_ORDER == 1 && s.queries == s.tokens) {
    plan.tile_columns = teams >= 32 ? 8 : 4;
    plan.tile_rows = teams / plan.tile_columns;
  }
  int32_t start = 0, tiles = 0;
  for (int level = 0; level < kLevels; ++level) {
    plan.rows[level] = static_cast<int32_t>(s.shapes[2 * level]);
    plan.columns[level] = static_cast<int32_t>(s.shapes[2 * level + 1]);
    plan.start[level] = start, plan.first[level] = tiles;
    plan.across[level] = (plan.columns[level] + plan.tile_columns - 1) / plan.tile_columns;
    start += plan.rows[level] * plan.columns[level];
    tiles += (plan.rows[level] + plan.tile_rows - 1) / plan.tile_rows * plan.across[level];
  }
  if (IDOL_ORDER == 0) {
    tiles = (plan.queries * plan.heads + teams - 1) / teams;
  } else {
    if (plan.tile_rows == 1) tiles = (plan.queries + teams - 1) / teams;
    tiles *= plan.heads;
  }
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(s.images));
  candidate<T, U, lanes, split><<<grid, IDOL_BLOCK, 0, stream>>>(plan);
  return cudaGetLastError();
}

// Threads that the current device holds at once; asked once of each device.
[[maybe_unused]] int64_t resident_threads() {
  static std::atomic<int64_t> known[64];
  int device = 0, processors = 0, threads = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const bool kept = device >= 0 && device < 64;
  if (const int64_t found = kept ? known[device].load(std::memory_order_relaxed) : 0) return found;
  if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, device) != cudaSuccess)
    return 0;
  const int64_t found = static_cast<int64_t>(processors) * threads;
  if (kept) known[device].store(found, std::memory_order_relaxed);
  return found;
}

template <class T, class U> cudaError_t launch_candidate(const idol_fused &call, cudaStream_t stream) {
  constexpr int lanes = kWidth * sizeof(T) / 16 / IDOL_CHUNKS, most = 32 / lanes;
#if IDOL_SPLIT
  return launch_split<T, U, lanes, (IDOL_SPLIT < most ? IDOL_SPLIT : most)>(call, stream);
#else
  const idol_sizes &s = call.sizes;
  const int64_t room = resident_threads() / (s.images * s.queries * s.heads * lanes);
  if (room >= 8 && most >= 8) return launch_split<T, U, lanes, (most < 8 ? most : 8)>(call, stream);
  if (room >= 4 && most >= 4) return launch_split<T, U, lanes, (most < 4 ? most : 4)>(call, stream);
  if (room >= 2 && most >= 2) return launch_split<T, U, lanes, (most < 2 ? most : 2)>(call, stream);
  return launch_split<T, U, lanes, 1>(call, stream);
#endif
}

}  // namespace

// Of other sizes, a candidate says that it does not take them.
int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  const idol_sizes &s = call->sizes;
  constexpr int64_t most = int64_t{1} << 30;
  const bool ours = s.levels == kLevels && s.points == kPoints && s.width == kWidth && s.images < 65536 &&
                    s.queries * s.heads < most / 64 && s.tokens * s.heads * kWidth * 4 < most;
  if (!ours) return IDOL_BAD_SHAPE;
  if (idol::is_empty(s)) return IDOL_OK;
  auto *const on = static_cast<cudaStream_t>(stream);
  cudaError_t error = cudaSuccess;
  if (call->type == IDOL_FLOAT32) {
    error = launch_candidate<float, float>(*call, on);
  } else if (call->type == IDOL_BFLOAT16) {
    error = launch_candidate<__nv_bfloat16, float>(*call, on);
  } else if (call->merged_type == IDOL_FLOAT16) {
    error = launch_candidate<__half, __half>(*call, on);
  } else {
    error = launch_candidate<__half, float>(*call, on);
  }
  return error == cudaSuccess ? IDOL_OK : IDOL_CUDA_ERROR + static_cast<int32_t>(error);
}
