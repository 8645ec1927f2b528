// The input of a kernel: a checked call, and the tables that its work items share.
//
// Sources compiled for different instruction sets include this header, so it instantiates nothing.
#pragma once

#include <cstdint>

namespace idol {

// The level of each sample point of a head. There are `padded` points, a multiple of the lanes of a vector; points past
// L * P have a base of NaN, so that they always lie outside.
struct Samples {
  const float *w, *h;
  const int32_t *columns, *rows, *start;
};

struct Call {
  const void *value;
  const void *merged;      // fused; null in a classic call
  const float *reference;  // fused
  const float *locations;  // classic
  const float *weights;    // classic
  void *out;
  int64_t tokens, queries;
  int64_t heads, width, levels, points;
  int64_t padded;            // samples per head in the tables and the scratch, at least L * P
  int64_t reference_stride;  // floats between images; 0 if all images share one reference
  int64_t reference_width;   // 2 or 4
  const int32_t *order;      // queries of an image in the order of computation; null: ascending
  bool half_merged;
  Samples samples;
};

// Scratch memory of a kernel in floats: the axes of a query, then the samples of one head.
inline __attribute__((always_inline)) int64_t scratch_floats(const Call &call) { return 7 * call.padded; }

// Computes the work items [begin, end) of N * Q.
using RangeKernel = void (*)(const Call &call, float *scratch, int64_t begin, int64_t end);

// A fused call and its gradients, each of which may be null. Gradients are floats for every type of values.
struct GradCall {
  Call call;
  const void *out;   // [N, Q, M, D] gradient of the output, of value's type
  float *value;      // [N, S, M, D]
  float *merged;     // [N, Q, M*L*P*3]
  float *reference;  // [N, M, Q, L, 2 or 4], one part per head
};

// Scratch memory of a backward kernel in floats: the above, weights, three gradients per sample, and one head of the
// output's gradient.
inline __attribute__((always_inline)) int64_t scratch_floats(const GradCall &grad) {
  return 11 * grad.call.padded + grad.call.width;
}

// Computes the work items [begin, end) of N * M. An item is a head of an image, and no other item writes its gradients.
using GradKernel = void (*)(const GradCall &grad, float *scratch, int64_t begin, int64_t end);

// Kernels by idol_type.
struct Kernels {
  RangeKernel by_type[3];
  GradKernel backward_by_type[3];
};

extern const Kernels scalar_kernels;
extern const Kernels vec128_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace idol
