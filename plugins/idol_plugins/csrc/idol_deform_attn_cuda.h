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

/* Kernels for heads of 32 channels; any other width has one kernel. AUTO is the kernel that was measured. The others are
 * candidates, to be removed when a measurement chooses. "n reads" is the number of reads of value that a lane starts
 * before it uses the first. */
enum idol_cuda_variant {
  IDOL_CUDA_AUTO = 0,       /* GROUP */
  IDOL_CUDA_GROUP = 1,      /* 4 lanes a head (fp32: 8), each with 16 bytes of the channels; 1 read */
  IDOL_CUDA_CHANNEL = 2,    /* 32 lanes a head, each with one channel; 8 reads */
  IDOL_CUDA_WARP = 3,       /* 32 lanes a head: 8 groups (fp32: 4) as in GROUP, which share the samples; 4 reads (fp32: 8) */
  IDOL_CUDA_AHEAD = 4,      /* as GROUP; 4 reads */
  IDOL_CUDA_AHEAD_2 = 5,    /* as GROUP; 8 reads */
  IDOL_CUDA_PAIR = 6,       /* 2 groups a head, which share the samples; 4 reads */
  IDOL_CUDA_LARGE_BLOCK = 7 /* AHEAD in blocks of 512 threads, whose queries share cells in the L1 cache */
};

/* `stream` is a cudaStream_t. Returns an idol_status, or IDOL_CUDA_ERROR plus the error of the launch. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused(const idol_fused *call, void *stream);
/* The order of additions to value's gradient is not fixed: the last bits may differ between calls. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused_backward(const idol_fused_grad *call, void *stream);
IDOL_EXPORT int32_t idol_deform_attn_cuda_classic(const idol_classic *call, void *stream);

/* The same with an idol_cuda_variant; IDOL_BAD_ISA if there is no such variant. */
IDOL_EXPORT int32_t idol_deform_attn_cuda_fused_as(const idol_fused *call, int32_t variant, void *stream);
IDOL_EXPORT int32_t idol_deform_attn_cuda_classic_as(const idol_classic *call, int32_t variant, void *stream);

#ifdef __cplusplus
}
#endif

#endif
