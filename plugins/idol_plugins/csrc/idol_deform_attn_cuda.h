/* Multi-scale deformable attention on a CUDA device: the calls of idol_deform_attn_cpu.h with device pointers.
 *
 * Only `shapes` stays a host pointer, and is read before the function returns. Up to IDOL_CUDA_MOST_LEVELS levels.
 * Arrays must start at multiples of 16 bytes, as cudaMalloc's do. The work is put into the stream, no more.
 */
#ifndef IDOL_DEFORM_ATTN_CUDA_H
#define IDOL_DEFORM_ATTN_CUDA_H

#include "idol_deform_attn_cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IDOL_CUDA_MOST_LEVELS 16
/* A status from here on is a cudaError_t added to it. */
#define IDOL_CUDA_ERROR 1000

/* `stream` is a cudaStream_t. Returns an idol_status, or what the launch returned. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream);
/* Adds to value's gradient in no certain order: the last bits may differ from one call to the next. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused_backward(const idol_fused_grad *call, void *stream);
IDOL_EXPORT int32_t idol_deform_attn_cuda_classic(const idol_classic *call, void *stream);

#ifdef __cplusplus
}
#endif

#endif
