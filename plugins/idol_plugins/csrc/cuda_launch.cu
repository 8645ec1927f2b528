// The launcher: check a call, select the kernel, launch it, return the status.
#include "call_checks.h"
#include "cuda_backward.cuh"
#include "cuda_kernel.cuh"

namespace {

constexpr int kBlock = 128;

constexpr int64_t kMostBlocks = 1 << 20;  // far below every device's limit; the kernels loop

unsigned blocks_of(int64_t threads) {
  const int64_t blocks = (threads + kBlock - 1) / kBlock;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

template <class T, class U, int channels, int lanes> cudaError_t launch_as(idol::CudaCall call, cudaStream_t stream) {
  call.threads *= call.width / channels;
  idol::deform_attn<T, U, channels, lanes><<<blocks_of(call.threads), kBlock, 0, stream>>>(call);
  return cudaGetLastError();
}

template <class T, class U> cudaError_t launch(const idol::CudaCall &call, cudaStream_t stream) {
  constexpr int channels = 16 / sizeof(T), lanes = 32 / channels;
  if (call.width == 32) return launch_as<T, U, channels, lanes>(call, stream);
  return launch_as<T, U, 1, 1>(call, stream);
}

template <class T, class U> cudaError_t launch(idol::CudaGradCall grad, cudaStream_t stream) {
  grad.call.threads *= idol::kGradLanes;
  const unsigned blocks = blocks_of(grad.call.threads);
  if (grad.call.width == 32)
    idol::deform_attn_backward<T, U, 4><<<blocks, kBlock, 0, stream>>>(grad);
  else
    idol::deform_attn_backward<T, U, 1><<<blocks, kBlock, 0, stream>>>(grad);
  return cudaGetLastError();
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
template <class Call> cudaError_t launch_typed(const idol_fused &of, const Call &call, cudaStream_t stream) {
  if (of.type == IDOL_FLOAT32) return launch<float, float>(call, stream);
  if (of.type == IDOL_BFLOAT16) return launch<__nv_bfloat16, float>(call, stream);
  if (of.merged_type == IDOL_FLOAT16) return launch<__half, __half>(call, stream);
  return launch<__half, float>(call, stream);
}

int32_t status_of(cudaError_t error) {
  return error == cudaSuccess ? IDOL_OK : IDOL_CUDA_ERROR + static_cast<int32_t>(error);
}

}  // namespace

int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  if (!fits_device(call->sizes)) return IDOL_BAD_SHAPE;
  if (idol::is_empty(call->sizes)) return IDOL_OK;  // a launch without blocks is an error
  return status_of(launch_typed(*call, describe(*call), static_cast<cudaStream_t>(stream)));
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
  return status_of(launch_typed(of, work, on));
}

int32_t idol_deform_attn_cuda_classic(const idol_classic *call, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  if (!fits_device(call->sizes)) return IDOL_BAD_SHAPE;
  if (idol::is_empty(call->sizes)) return IDOL_OK;
  idol::CudaCall work = describe(call->sizes);
  work.value = call->value, work.out = call->out;
  work.locations = call->locations, work.weights = call->weights;
  auto *const on = static_cast<cudaStream_t>(stream);
  if (call->type == IDOL_FLOAT32) return status_of(launch<float, float>(work, on));
  if (call->type == IDOL_BFLOAT16) return status_of(launch<__nv_bfloat16, float>(work, on));
  return status_of(launch<__half, float>(work, on));
}
