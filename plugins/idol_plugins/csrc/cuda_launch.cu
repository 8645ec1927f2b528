// The launcher: checks a call, chooses the kernel, launches it, returns every status.
#include "call_checks.h"
#include "cuda_kernel.cuh"

namespace {

constexpr int kBlock = 128;

template <class T, class U, int channels, int lanes> cudaError_t launch_as(idol::CudaCall call, cudaStream_t stream) {
  call.threads *= call.width / channels;
  const int64_t blocks = (call.threads + kBlock - 1) / kBlock;
  constexpr int64_t most = 1 << 20;  // far below every device's limit; the kernel goes round
  idol::deform_attn<T, U, channels, lanes>
      <<<static_cast<unsigned>(blocks < most ? blocks : most), kBlock, 0, stream>>>(call);
  return cudaGetLastError();
}

template <class T, class U> cudaError_t launch(const idol::CudaCall &call, cudaStream_t stream) {
  constexpr int channels = 16 / sizeof(T), lanes = 32 / channels;
  if (call.width == 32) return launch_as<T, U, channels, lanes>(call, stream);
  return launch_as<T, U, 1, 1>(call, stream);
}

bool fits_device(const idol_sizes &s) {
  constexpr int64_t most = 1 << 20;  // a product of two stays in 64 bits, a token's channels in 32
  return s.levels <= IDOL_CUDA_MOST_LEVELS && s.points <= most && s.heads * s.width <= most &&
         s.levels * s.points <= most;
}

idol::CudaCall describe(const idol_sizes &s) {
  idol::CudaCall call{};
  call.threads = s.images * s.queries * s.heads;  // times the threads of a head
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

int32_t status_of(cudaError_t error) {
  return error == cudaSuccess ? IDOL_OK : IDOL_CUDA_ERROR + static_cast<int32_t>(error);
}

}  // namespace

int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream) {
  if (const int32_t status = idol::check(call)) return status;
  if (!fits_device(call->sizes)) return IDOL_BAD_SHAPE;
  if (idol::is_empty(call->sizes)) return IDOL_OK;  // a launch of no block is an error
  idol::CudaCall work = describe(call->sizes);
  work.value = call->value, work.merged = call->merged, work.reference = call->reference, work.out = call->out;
  work.reference_width = static_cast<int32_t>(call->reference_width);
  work.reference_stride =
      call->reference_images == 1 ? 0 : call->sizes.queries * call->sizes.levels * call->reference_width;
  auto *const on = static_cast<cudaStream_t>(stream);
  if (call->type == IDOL_FLOAT32) return status_of(launch<float, float>(work, on));
  if (call->type == IDOL_BFLOAT16) return status_of(launch<__nv_bfloat16, float>(work, on));
  if (call->merged_type == IDOL_FLOAT16) return status_of(launch<__half, __half>(work, on));
  return status_of(launch<__half, float>(work, on));
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
