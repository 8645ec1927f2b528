/* Multi-scale deformable attention on a CUDA device: the calls of idol_deform_attn_cpu.h with device pointers.
 *
 * Only `shapes` is a host pointer; it is read before the function returns. IDOL_CUDA_MOST_LEVELS levels at most. Arrays
 * must start at multiples of 16 bytes, as those of cudaMalloc do. Functions queue the work in the stream and return.
 */
#ifndef IDOL_DEFORM_ATTN_CUDA_H
#define IDOL_DEFORM_ATTN_CUDA_H

#include "idol_deform_attn_cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IDOL_CUDA_MOST_LEVELS 16
/* A status of this value or more is this value plus a cudaError_t. */
#define IDOL_CUDA_ERROR 1000

/* `stream` is a cudaStream_t. Returns an idol_status, or IDOL_CUDA_ERROR plus the error of the launch. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream);
/* The order of additions to value's gradient is not fixed: the last bits may differ between calls. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused_backward(const idol_fused_grad *call, void *stream);
IDOL_EXPORT int32_t idol_deform_attn_cuda_classic(const idol_classic *call, void *stream);

#ifdef __cplusplus
}
#endif

#endif
