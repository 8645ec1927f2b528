// Candidates for the CUDA kernel of 4 levels, 4 points and width 32, of which gpu_kernels.py finds the fastest:
//
//   IDOL_ORDER    which items a block holds: 0 all heads of consecutive queries, 1 one head of consecutive queries,
//                 2 one head of a tile of the map where the queries are the tokens, heads fastest, 3 heads slowest
//   IDOL_SHARE    how lanes learn of each other's taps: 0 by shuffles, 1 through shared memory
//   IDOL_LANES    lanes of a head: 0 as many as read 16 bytes each, else 2, 4 or 8
//   IDOL_BLOCK    threads of a block
//
// In all of them a lane finds the taps of consecutive samples, whose projections it reads as vectors; a sample is read
// or skipped as a whole, since a corner outside lends its token from one inside; and indices have 32 bits.
#include <cuda_runtime.h>

#define idol_deform_attn_cuda_fused idol_published_fused
#include "cuda_launch.cu"
#undef idol_deform_attn_cuda_fused

#ifndef IDOL_ORDER
#define IDOL_ORDER 2
#endif
#ifndef IDOL_SHARE
#define IDOL_SHARE 1
#endif
#ifndef IDOL_LANES
#define IDOL_LANES 0
#endif
#ifndef IDOL_BLOCK
#define IDOL_BLOCK 128
#endif

namespace {

using idol::Pack;

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

// A sample, its four tokens and shares; a first token of -1: nothing of it is inside.
struct alignas(16) Tokens {
  int32_t at[4];
};
struct alignas(16) Shares {
  float at[4];
};

// `count` elements as vectors of at most 16 bytes.
template <class U, int count> __device__ __forceinline__ void read(const U *from, float *to) {
  constexpr int whole = 16 / sizeof(U), step = count < whole ? count : whole;
#pragma unroll
  for (int i = 0; i < count; i += step) {
    const auto pack = *reinterpret_cast<const Pack<U, step> *>(from + i);
#pragma unroll
    for (int j = 0; j < step; ++j) to[i + j] = idol::widen(pack.at[j]);
  }
}

// The query of this group, or -1, and its head.
template <int lanes> __device__ __forceinline__ int2 item_of(const Plan &plan) {
  constexpr int groups = IDOL_BLOCK / lanes;
  const int32_t group = static_cast<int32_t>(threadIdx.x) / lanes, block = static_cast<int32_t>(blockIdx.x);
#if IDOL_ORDER == 0
  const auto pair = static_cast<uint32_t>(block * groups + group), heads = static_cast<uint32_t>(plan.heads);
  const auto query = static_cast<int32_t>(pair / heads);
  return {query < plan.queries ? query : -1, static_cast<int32_t>(pair % heads)};
#elif IDOL_ORDER == 1
  const int32_t head = block % plan.heads, query = block / plan.heads * groups + group;
  return {query < plan.queries ? query : -1, head};
#else
#if IDOL_ORDER == 2
  const int32_t head = block % plan.heads, tile = block / plan.heads;
#else
  const int32_t tiles = static_cast<int32_t>(gridDim.x) / plan.heads, head = block / tiles, tile = block % tiles;
#endif
  if (plan.tile_rows == 1) {  // queries that are not the tokens
    const int32_t query = tile * groups + group;
    return {query < plan.queries ? query : -1, head};
  }
  const int level = (tile >= plan.first[1]) + (tile >= plan.first[2]) + (tile >= plan.first[3]);
  const int32_t inside = tile - plan.first[level], across = plan.across[level];
  const int32_t row = inside / across * plan.tile_rows + group / plan.tile_columns;
  const int32_t column = inside % across * plan.tile_columns + group % plan.tile_columns;
  const bool there = row < plan.rows[level] && column < plan.columns[level];
  return {there ? plan.start[level] + row * plan.columns[level] + column : -1, head};
#endif
}

template <class T, class U, int lanes> __global__ void __launch_bounds__(IDOL_BLOCK) candidate(const __grid_constant__ Plan plan) {
  [[maybe_unused]] constexpr int groups = 32 / lanes;  // of a warp
  constexpr int own = kSamples / lanes, vector = 16 / sizeof(T), chunks = kWidth / lanes / vector;
  static_assert(chunks >= 1 && own >= 1, "a lane reads at least 16 bytes, and finds at least one sample");
  const idol::Group<lanes> group;
  const int lane = group.lane;
  const int2 item = item_of<lanes>(plan);
  const bool there = item.x >= 0;
  const int32_t query = there ? item.x : 0, head = item.y, stride = plan.heads * kWidth;
  const int64_t image = blockIdx.y, row = image * plan.queries + query;
  const U *merged = static_cast<const U *>(plan.merged) + row * (3 * kSamples * plan.heads);
  const T *value = static_cast<const T *>(plan.value) + image * plan.tokens * stride + head * kWidth + lane * vector;

  float pairs[2 * own], weights[own];
  read<U, 2 * own>(merged + (head * kSamples + lane * own) * 2, pairs);
  read<U, own>(merged + (2 * plan.heads + head) * kSamples + lane * own, weights);
  float most = -INFINITY, total = 0.0f;
#pragma unroll
  for (int s = 0; s < own; ++s) most = weights[s] > most ? weights[s] : most;
  most = group.largest(most);
#pragma unroll
  for (int s = 0; s < own; ++s) total += weights[s] = idol::exp_nonpositive(weights[s] - most);

  const float *reference = plan.reference + image * plan.reference_stride + query * kLevels * plan.reference_width;
  const bool box = plan.reference_width == 4;
  float sum[chunks * vector] = {};
#if IDOL_SHARE
  __shared__ Tokens all_tokens[IDOL_BLOCK];
  __shared__ Shares all_shares[IDOL_BLOCK];
  const int in_warp = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) - in_warp;
  Tokens *const tokens = all_tokens + warp + in_warp / lanes;
  Shares *const shares = all_shares + warp + in_warp / lanes;
#endif
  idol::Axis across{}, down{};
  int32_t rows = 1, columns = 1, start = 0;
#pragma unroll
  for (int s = 0; s < own; ++s) {
    if (s % kPoints == 0) {
      const int level = (lane * own + s) / kPoints;
      const float *r = reference + level * plan.reference_width;
      rows = plan.rows[level], columns = plan.columns[level], start = plan.start[level];
      const float points = kPoints;
      across = idol::offset_axis(r[0], box ? r[2] : 0.0f, box, static_cast<float>(columns), points);
      down = idol::offset_axis(r[1], box ? r[3] : 0.0f, box, static_cast<float>(rows), points);
    }
    const idol::Corners<float> found = idol::corners<float, int32_t>(
        across.base + across.scale * pairs[2 * s], down.base + down.scale * pairs[2 * s + 1],
        static_cast<float>(columns), static_cast<float>(rows), columns, rows, start);
    const bool any = found.inside[0] | found.inside[1] | found.inside[2] | found.inside[3];
    Tokens token;
    Shares share;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      token.at[corner] = any && there ? found.token[corner] : -1;
      share.at[corner] = found.share[corner] * weights[s];
    }
#if IDOL_SHARE
    __syncwarp();
    tokens[lane * groups] = token;
    shares[lane * groups] = share;
    __syncwarp();
#endif
#pragma unroll
    for (int source = 0; source < lanes; ++source) {
#if IDOL_SHARE
      const Tokens t = tokens[source * groups];
      const Shares f = shares[source * groups];
#else
      Tokens t;
      Shares f;
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        t.at[corner] = group.from(token.at[corner], source);
        f.at[corner] = group.from(share.at[corner], source);
      }
#endif
      if (t.at[0] < 0) continue;
      Pack<T, vector> packs[4][chunks];
#pragma unroll
      for (int corner = 0; corner < 4; ++corner)
#pragma unroll
        for (int chunk = 0; chunk < chunks; ++chunk)
          packs[corner][chunk] = *reinterpret_cast<const Pack<T, vector> *>(
              value + static_cast<int64_t>(t.at[corner]) * stride + chunk * lanes * vector);
#pragma unroll
      for (int corner = 0; corner < 4; ++corner)
#pragma unroll
        for (int chunk = 0; chunk < chunks; ++chunk)
#pragma unroll
          for (int i = 0; i < vector; ++i)
            sum[chunk * vector + i] += idol::widen(packs[corner][chunk].at[i]) * f.at[corner];
    }
  }
  const float scale = 1.0f / group.total(total);
  if (!there) return;
  T *out = static_cast<T *>(plan.out) + row * stride + head * kWidth + lane * vector;
#pragma unroll
  for (int chunk = 0; chunk < chunks; ++chunk) {
    Pack<T, vector> result;
#pragma unroll
    for (int i = 0; i < vector; ++i) idol::narrow(sum[chunk * vector + i] * scale, &result.at[i]);
    *reinterpret_cast<Pack<T, vector> *>(out + chunk * lanes * vector) = result;
  }
}

template <class T, class U> cudaError_t launch_candidate(const idol_fused &call, cudaStream_t stream) {
  constexpr int lanes = IDOL_LANES ? IDOL_LANES : kWidth * sizeof(T) / 16, groups = IDOL_BLOCK / lanes;
  const idol_sizes &s = call.sizes;
  Plan plan{};
  plan.value = call.value, plan.merged = call.merged, plan.reference = call.reference, plan.out = call.out;
  plan.reference_stride = call.reference_images == 1 ? 0 : s.queries * s.levels * call.reference_width;
  plan.tokens = static_cast<int32_t>(s.tokens), plan.queries = static_cast<int32_t>(s.queries);
  plan.heads = static_cast<int32_t>(s.heads), plan.reference_width = static_cast<int32_t>(call.reference_width);
  plan.tile_rows = 1, plan.tile_columns = groups;
  if (IDOL_ORDER >= 2 && s.queries == s.tokens) {
    plan.tile_columns = groups >= 32 ? 8 : 4;
    plan.tile_rows = groups / plan.tile_columns;
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
    tiles = (plan.queries * plan.heads + groups - 1) / groups;
  } else {
    if (plan.tile_rows == 1) tiles = (plan.queries + groups - 1) / groups;
    tiles *= plan.heads;
  }
  candidate<T, U, lanes><<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(s.images)), IDOL_BLOCK, 0, stream>>>(plan);
  return cudaGetLastError();
}

}  // namespace

extern "C" IDOL_EXPORT int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  const idol_sizes &s = call->sizes;
  constexpr int64_t most = int64_t{1} << 30;
  const bool ours = s.levels == kLevels && s.points == kPoints && s.width == kWidth && s.images < 65536 &&
                    s.queries * s.heads < most / 64 && !idol::is_empty(s);
  if (!ours) return idol_published_fused(call, stream);
  auto *const on = static_cast<cudaStream_t>(stream);
  if (call->type == IDOL_FLOAT32) return status_of(launch_candidate<float, float>(*call, on));
  if (call->type == IDOL_BFLOAT16) return status_of(launch_candidate<__nv_bfloat16, float>(*call, on));
  if (call->merged_type == IDOL_FLOAT16) return status_of(launch_candidate<__half, __half>(*call, on));
  return status_of(launch_candidate<__half, float>(*call, on));
}
