// Reads of random cells: the speed that a gather from these cells can reach. A cell is a token's channels of one head, and
// a group of lanes reads it at once, 16 bytes a lane, like the kernels of heads of 32 channels.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kReads = 8;  // of a group, all in flight

struct Gather {
  const uint4 *cells;
  uint32_t count;   // of cells
  int32_t shift;    // a group has 1 << shift lanes
  int64_t threads;
  uint32_t *out;    // a number per thread, so that the reads are needed
};

__global__ void __launch_bounds__(128) gather(const __grid_constant__ Gather call) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= call.threads) return;
  const auto group = static_cast<uint32_t>(thread >> call.shift);
  const auto lane = static_cast<uint32_t>(thread) & ((1u << call.shift) - 1);
  uint4 words[kReads];
#pragma unroll
  for (uint32_t i = 0; i < kReads; ++i) {
    uint32_t random = (group * kReads + i) * 0x9e3779b9u;  // the mixing steps of MurmurHash3
    random = (random ^ random >> 16) * 0x85ebca6bu;
    random = (random ^ random >> 13) * 0xc2b2ae35u;
    random ^= random >> 16;
    const auto cell = static_cast<uint32_t>(uint64_t{random} * call.count >> 32);
    words[i] = call.cells[(int64_t{cell} << call.shift) + lane];
  }
  uint32_t total = 0;
#pragma unroll
  for (int i = 0; i < kReads; ++i) total += words[i].x + words[i].y + words[i].z + words[i].w;
  call.out[thread] = total;
}

}  // namespace

// Reads `reads` cells, a multiple of 8, of 16 << `shift` bytes each. `out` has (`reads` / 8) << `shift` numbers. Returns a
// cudaError_t.
extern "C" __attribute__((visibility("default"))) int32_t gather_cells(const void *cells, uint32_t count, int32_t shift,
                                                                       int64_t reads, uint32_t *out, void *stream) {
  const int64_t threads = reads / kReads << shift;
  const Gather call{static_cast<const uint4 *>(cells), count, shift, threads, out};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((threads + 127) / 128));
  config.blockDim = dim3(128);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchKernelEx(&config, gather, call);
  return static_cast<int32_t>(cudaGetLastError());
}
