/* Multi-scale deformable attention on a CPU, as a plain C interface.
 *
 * Letters: N images, S tokens (all L levels concatenated), Q queries, M heads of D channels, P points per head and
 * level. Every array is dense, and its last dimension varies fastest. Functions are thread-safe.
 */
#ifndef IDOL_DEFORM_ATTN_CPU_H
#define IDOL_DEFORM_ATTN_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IDOL_DEFORM_ATTN_ABI 2
#define IDOL_EXPORT __attribute__((visibility("default")))

enum idol_status {
  IDOL_OK = 0,
  IDOL_NULL_POINTER = 1,
  IDOL_BAD_TYPE = 2,  /* an unknown type, or an unsupported combination */
  IDOL_BAD_SHAPE = 3, /* a size out of range, or S is not the sum of h * w */
  IDOL_BAD_ISA = 4,   /* the processor or the width does not support the instructions */
  IDOL_OUT_OF_MEMORY = 5
};

enum idol_type { IDOL_FLOAT32 = 0, IDOL_FLOAT16 = 1, IDOL_BFLOAT16 = 2 };

/* VEC128 is NEON on aarch64 and SSE2 on x86-64. */
enum idol_isa { IDOL_ISA_AUTO = 0, IDOL_ISA_SCALAR = 1, IDOL_ISA_VEC128 = 2, IDOL_ISA_AVX2 = 3, IDOL_ISA_AVX512 = 4 };

/* Computes the work items [begin, end). */
typedef void (*idol_range)(void *work, int64_t begin, int64_t end);

/* Calls `range` on any number of threads so that [0, count) is covered exactly once, and waits. */
typedef void (*idol_parallel_for)(void *pool, int64_t count, idol_range range, void *work);

typedef struct {
  int32_t isa;                    /* idol_isa */
  int32_t threads;                /* without parallel_for: number of threads; up to 1: the caller's thread */
  idol_parallel_for parallel_for; /* may be null */
  void *pool;                     /* first argument of parallel_for */
} idol_options;

typedef struct {
  int64_t images, tokens, queries;           /* N, S, Q */
  int64_t heads, width, levels, points;      /* M, D, L, P */
  const int64_t *shapes;                     /* [L, 2] (h, w) per level */
} idol_sizes;

typedef struct {
  idol_sizes sizes;
  int32_t type;              /* idol_type of value and out */
  int32_t merged_type;       /* FLOAT32, or FLOAT16 with FLOAT16 values */
  const void *value;         /* [N, S, M, D] */
  const void *merged;        /* [N, Q, M*L*P*3]: offsets [M, L, P, 2], then logits [M, L*P], as one row */
  const float *reference;    /* [N or 1, Q, L, 2 or 4] points, or boxes cxcywh, as fractions of the padded map */
  int64_t reference_images;  /* N or 1 */
  int64_t reference_width;   /* 2 or 4 */
  void *out;                 /* [N, Q, M * D] */
} idol_fused;

/* The gradients of a fused call, all fp32. A null gradient is skipped; any other is overwritten completely. */
typedef struct {
  idol_fused call;        /* `out` is ignored */
  const void *grad_out;   /* [N, Q, M * D] gradient of `out`, of value's type */
  float *grad_value;      /* [N, S, M, D] */
  float *grad_merged;     /* [N, Q, M*L*P*3] */
  float *grad_reference;  /* [N or 1, Q, L, 2 or 4], as `reference`; summed over images that share it */
} idol_fused_grad;

typedef struct {
  idol_sizes sizes;
  int32_t type;            /* idol_type of value and out */
  const void *value;       /* [N, S, M, D] */
  const float *locations;  /* [N, Q, M, L, P, 2] x, y; 0 and 1 are the outer edges of the border cells */
  const float *weights;    /* [N, Q, M, L, P] */
  void *out;               /* [N, Q, M * D] */
} idol_classic;

/* Computes the softmax over the L*P samples, locations, bilinear samples (zero outside the maps) and the weighted sum.
 * `options` may be null. Returns an idol_status. */
IDOL_EXPORT int32_t idol_deform_attn_fused(const idol_fused *call, const idol_options *options);

/* Computes the gradients. Bilinear sampling has a kink at every cell's centre: there, the slope is the one to the right
 * and downwards. A sample outside has no slope. The result is bit-identical for any number of threads; more than N * M
 * threads are of no use. */
IDOL_EXPORT int32_t idol_deform_attn_fused_backward(const idol_fused_grad *call, const idol_options *options);

/* Computes the weighted sum of bilinear samples at given locations. */
IDOL_EXPORT int32_t idol_deform_attn_classic(const idol_classic *call, const idol_options *options);

/* Returns 1 if build and processor support the instructions for heads of `width` channels. */
IDOL_EXPORT int32_t idol_deform_attn_offers(int32_t isa, int64_t width);

IDOL_EXPORT int32_t idol_deform_attn_abi(void);

#ifdef __cplusplus
}
#endif

#endif
