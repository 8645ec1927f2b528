// CUDA on the CPU, as much as this project's kernels use: a C++ compiler with this folder on its include path compiles
// cuda_launch.cu to a library that takes host pointers.
//
// The lanes of a warp are fibers. A lane runs until it returns or reaches a shuffle; the shuffle completes when every lane
// has. Uses whose result is undefined on a device fail the launch and print the reason. Blocks and warps run in order.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y = 1, z = 1;
  dim3(unsigned count = 1) : x(count) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = struct CUstream_st *;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace fake_cuda {

constexpr unsigned kLanes = 32;
enum class Shuffle { kIndex, kXor };

struct Lane {
  alignas(16) char stack[1 << 14];
  jmp_buf at;
  bool started, running;
  Shuffle kind;
  unsigned mask;
  int argument, width;
  uint32_t given, received;
};

inline Lane lanes[kLanes];
inline jmp_buf scheduler;
inline unsigned current;
inline cudaError_t last_error = cudaSuccess;
inline void (*body)(const void *);
inline const void *argument;

inline cudaError_t fail(const char *why) {
  for (Lane &lane : lanes) lane.started = false;  // the others are inside the kernel
  std::fprintf(stderr, "block %u, warp %u, lane %u: %s\n", blockIdx.x, threadIdx.x / kLanes, current, why);
  return cudaErrorLaunchFailure;
}

// Switches from the current lane to the scheduler. `setjmp` instead of `swapcontext`, which makes a system call.
[[gnu::noinline]] inline void pause() {
  if (_setjmp(lanes[current].at) == 0) _longjmp(scheduler, 1);
}

inline void run_lane() {
  for (;;) {
    body(argument);
    lanes[current].running = false;
    pause();
  }
}

// Continues a lane until it pauses.
[[gnu::noinline]] inline void resume(Lane &lane) {
  if (_setjmp(scheduler) != 0) return;
  if (lane.started) _longjmp(lane.at, 1);
  static ucontext_t context;
  lane.started = true;
  getcontext(&context);
  context.uc_stack.ss_sp = lane.stack;
  context.uc_stack.ss_size = sizeof lane.stack;
  makecontext(&context, run_lane, 0);
  setcontext(&context);
}

// Returns why this lane's shuffle is undefined, or null; finds the lane that it receives from.
inline const char *check(const Lane &own, unsigned *source) {
  if (!(own.mask >> current & 1)) return "the lane is not in its own mask";
  // The first lane of a mask checks all of them, the others check the first.
  const auto leader = static_cast<unsigned>(__builtin_ctz(own.mask));
  for (unsigned i = leader; i < (current == leader ? kLanes : leader + 1); ++i) {
    if (!(own.mask >> i & 1)) continue;
    const Lane &other = lanes[i];
    if (!other.running) return "a lane of the mask does not reach the shuffle";
    if (other.mask != own.mask || other.kind != own.kind || other.width != own.width)
      return "the lanes of the mask reach different shuffles";
  }
  const auto width = static_cast<unsigned>(own.width), given = static_cast<unsigned>(own.argument);
  if (width == 0 || width > kLanes || (width & (width - 1)) != 0) return "the width is no power of two up to 32";
  const unsigned first = current / width * width;
  *source = own.kind == Shuffle::kIndex ? first + given % width : current ^ given;
  if (*source >= first + width || *source < first) *source = current;
  return own.mask >> *source & 1 ? nullptr : "the source is not in the mask";
}

inline cudaError_t run_warp(unsigned first, unsigned count) {
  for (unsigned i = 0; i < kLanes; ++i) lanes[i].running = i < count;
  for (bool running = true; running;) {
    running = false;
    for (current = 0; current < kLanes; ++current) {
      if (!lanes[current].running) continue;
      threadIdx.x = first + current;
      resume(lanes[current]);
      running |= lanes[current].running;
    }
    for (current = 0; current < kLanes; ++current) {
      unsigned source = 0;
      if (!lanes[current].running) continue;
      if (const char *why = check(lanes[current], &source)) return fail(why);
      lanes[current].received = lanes[source].given;
    }
  }
  return cudaSuccess;
}

template <class T> T shuffle(unsigned mask, T what, Shuffle kind, int argument, int width) {
  static_assert(sizeof(T) == sizeof(uint32_t), "shuffles move 4 bytes");
  Lane &own = lanes[current];
  own.mask = mask, own.kind = kind, own.argument = argument, own.width = width;
  std::memcpy(&own.given, &what, sizeof what);
  pause();
  std::memcpy(&what, &own.received, sizeof what);
  return what;
}

inline cudaError_t run_grid(const cudaLaunchConfig_t &config) {
  if (config.gridDim.x == 0 || config.gridDim.x > 0x7fffffffu || config.blockDim.x == 0 || config.blockDim.x > 1024)
    return cudaErrorInvalidConfiguration;
  gridDim = config.gridDim, blockDim = config.blockDim;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
    for (unsigned first = 0; first < blockDim.x; first += kLanes) {
      const unsigned left = blockDim.x - first;
      if (const cudaError_t error = run_warp(first, left < kLanes ? left : kLanes)) return error;
    }
  return cudaSuccess;
}

}  // namespace fake_cuda

template <class T> T __shfl_sync(unsigned mask, T what, int source, int width = 32) {
  return fake_cuda::shuffle(mask, what, fake_cuda::Shuffle::kIndex, source, width);
}
template <class T> T __shfl_xor_sync(unsigned mask, T what, int step, int width = 32) {
  return fake_cuda::shuffle(mask, what, fake_cuda::Shuffle::kXor, step, width);
}
inline float atomicAdd(float *to, float what) {
  const float before = *to;
  *to += what;
  return before;
}

template <class Argument>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Argument), const Argument &argument) {
  static void (*current_kernel)(Argument);
  current_kernel = kernel;
  fake_cuda::body = [](const void *given) { current_kernel(*static_cast<const Argument *>(given)); };
  fake_cuda::argument = &argument;
  return fake_cuda::last_error = fake_cuda::run_grid(*config);
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = fake_cuda::last_error;
  fake_cuda::last_error = cudaSuccess;
  return error;
}
inline cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
