// The launcher: check a call, select the kernel, launch it, return the status.
#include "call_checks.h"
#include "cuda_backward.cuh"
#include "cuda_kernel.cuh"
#include "cuda_variants.cuh"

#ifndef IDOL_CUDA_MOST_BLOCKS  // a test sets few, so that the kernels loop
#define IDOL_CUDA_MOST_BLOCKS (1 << 20)  // far below every device's limit
#endif

namespace {

constexpr int kBlock = 128, kLargeBlock = 512;

template <class Call>
cudaError_t launch_blocks(void (*kernel)(Call), const Call &call, int64_t threads, cudaStream_t stream, int block = kBlock) {
  const int64_t blocks = (threads + block - 1) / block;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < IDOL_CUDA_MOST_BLOCKS ? blocks : IDOL_CUDA_MOST_BLOCKS));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, call);
  return cudaGetLastError();
}

// The kernels for heads of 32 channels, and the threads of a head; any other width has one kernel.
template <class T, class U> cudaError_t launch(idol::CudaCall call, int32_t variant, cudaStream_t stream) {
  constexpr int channels = 16 / sizeof(T), lanes = 32 / channels;
  using namespace idol;
  const auto run = [&](void (*kernel)(CudaCall), int threads, int block = kBlock) {
    call.threads *= threads;
    return launch_blocks(kernel, call, call.threads, stream, block);
  };
  if (call.width != 32) return run(deform_attn<T, U, 1, 1>, call.width);
  switch (variant) {
    case IDOL_CUDA_CHANNEL: return run(deform_attn_team<T, U, 1, 1, 2>, 32);
    case IDOL_CUDA_WARP: return run(deform_attn_team<T, U, channels, channels, sizeof(T) / 2>, 32);
    case IDOL_CUDA_AHEAD: return run(deform_attn_team<T, U, channels, 1, 1>, lanes);
    case IDOL_CUDA_AHEAD_2: return run(deform_attn_team<T, U, channels, 1, 2>, lanes);
    case IDOL_CUDA_PAIR: return run(deform_attn_team<T, U, channels, 2, 1>, 2 * lanes);
    case IDOL_CUDA_LARGE_BLOCK: return run(deform_attn_team<T, U, channels, 1, 1, kLargeBlock>, lanes, kLargeBlock);
    default: return run(deform_attn<T, U, channels, lanes>, lanes);
  }
}

template <class T, class U> cudaError_t launch(idol::CudaGradCall grad, int32_t, cudaStream_t stream) {
  grad.call.threads *= idol::kGradLanes;
  const bool wide = grad.call.width == 32;
  return launch_blocks(wide ? idol::deform_attn_backward<T, U, 4> : idol::deform_attn_backward<T, U, 1>, grad,
                       grad.call.threads, stream);
}

cudaError_t clear(float *array, int64_t count, cudaStream_t stream) {
  if (array == nullptr || count == 0) return cudaSuccess;
  return cudaMemsetAsync(array, 0, sizeof(float) * static_cast<size_t>(count), stream);
}

bool fits_device(const idol_sizes &s) {
  constexpr int64_t most = 1 << 20;  // a product of two fits 64 bits, a token's channels fit 32
  return s.levels <= IDOL_CUDA_MOST_LEVELS && s.points <= most && s.heads * s.width <= most &&
         s.levels * s.points <= most;
}

idol::CudaCall describe(const idol_sizes &s) {
  idol::CudaCall call{};
  call.threads = s.images * s.queries * s.heads;  // later multiplied by the threads of a head
  call.tokens = s.tokens, call.queries = s.queries;
  call.heads = static_cast<int32_t>(s.heads), call.width = static_cast<int32_t>(s.width);
  call.levels = static_cast<int32_t>(s.levels), call.points = static_cast<int32_t>(s.points);
  int64_t start = 0;
  for (int64_t level = 0; level < s.levels; ++level) {
    call.rows[level] = static_cast<int32_t>(s.shapes[2 * level]);
    call.columns[level] = static_cast<int32_t>(s.shapes[2 * level + 1]);
    call.start[level] = static_cast<int32_t>(start);
    start += s.shapes[2 * level] * s.shapes[2 * level + 1];
  }
  return call;
}

idol::CudaCall describe(const idol_fused &of) {
  idol::CudaCall call = describe(of.sizes);
  call.value = of.value, call.merged = of.merged, call.reference = of.reference, call.out = of.out;
  call.reference_width = static_cast<int32_t>(of.reference_width);
  call.reference_stride = of.reference_images == 1 ? 0 : of.sizes.queries * of.sizes.levels * of.reference_width;
  return call;
}

// Selects the kernel by the types of value and merged.
template <class Call>
cudaError_t launch_typed(int32_t type, int32_t merged_type, const Call &call, int32_t variant, cudaStream_t stream) {
  if (type == IDOL_FLOAT32) return launch<float, float>(call, variant, stream);
  if (type == IDOL_BFLOAT16) return launch<__nv_bfloat16, float>(call, variant, stream);
  if (merged_type == IDOL_FLOAT16) return launch<__half, __half>(call, variant, stream);
  return launch<__half, float>(call, variant, stream);
}

bool is_variant(int32_t variant) { return variant >= IDOL_CUDA_AUTO && variant <= IDOL_CUDA_LARGE_BLOCK; }

int32_t status_of(cudaError_t error) {
  return error == cudaSuccess ? IDOL_OK : IDOL_CUDA_ERROR + static_cast<int32_t>(error);
}

}  // namespace

int32_t idol_deform_attn_cuda_fused_as(const idol_fused *call, int32_t variant, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  if (!fits_device(call->sizes)) return IDOL_BAD_SHAPE;
  if (!is_variant(variant)) return IDOL_BAD_ISA;
  if (idol::is_empty(call->sizes)) return IDOL_OK;  // a launch without blocks is an error
  auto *const on = static_cast<cudaStream_t>(stream);
  return status_of(launch_typed(call->type, call->merged_type, describe(*call), variant, on));
}

int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream) {
  return idol_deform_attn_cuda_fused_as(call, IDOL_CUDA_AUTO, stream);
}

int32_t idol_deform_attn_cuda_fused_backward(const idol_fused_grad *call, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  const idol_fused &of = call->call;
  const idol_sizes &sizes = of.sizes;
  if (!fits_device(sizes)) return IDOL_BAD_SHAPE;
  auto *const on = static_cast<cudaStream_t>(stream);
  const int64_t values = sizes.images * sizes.tokens * sizes.heads * sizes.width;
  const int64_t references = of.reference_images * sizes.queries * sizes.levels * of.reference_width;
  cudaError_t error = clear(call->grad_value, values, on);
  if (error == cudaSuccess) error = clear(call->grad_reference, references, on);
  if (error != cudaSuccess || idol::is_empty(sizes)) return status_of(error);
  const idol::CudaGradCall work{describe(of), call->grad_out, call->grad_value, call->grad_merged,
                                call->grad_reference};
  return status_of(launch_typed(of.type, of.merged_type, work, IDOL_CUDA_AUTO, on));
}

int32_t idol_deform_attn_cuda_classic_as(const idol_classic *call, int32_t variant, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  if (!fits_device(call->sizes)) return IDOL_BAD_SHAPE;
  if (!is_variant(variant)) return IDOL_BAD_ISA;
  if (idol::is_empty(call->sizes)) return IDOL_OK;
  idol::CudaCall work = describe(call->sizes);
  work.value = call->value, work.out = call->out;
  work.locations = call->locations, work.weights = call->weights;
  return status_of(launch_typed(call->type, IDOL_FLOAT32, work, variant, static_cast<cudaStream_t>(stream)));
}

int32_t idol_deform_attn_cuda_classic(const idol_classic *call, void *stream) {
  return idol_deform_attn_cuda_classic_as(call, IDOL_CUDA_AUTO, stream);
}
