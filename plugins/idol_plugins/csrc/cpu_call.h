// What the interface hands to a kernel: a checked call, and the tables that all its work items share.
//
// This header is seen by sources compiled for different instruction sets, so it instantiates nothing.
#pragma once

#include <cstdint>

namespace idol {

// A sample point of every head: which level it is on. `padded` of them, a multiple of every vector's lanes; those
// past L * P have a base of NaN, which lies outside whatever is added to it.
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
  int64_t reference_stride;  // floats between images, 0 where all share one
  int64_t reference_width;   // 2 or 4
  const int32_t *order;      // queries of an image in the order to compute them; null: as they come
  bool half_merged;
  Samples samples;
};

// Floats that a kernel needs for itself: the axes of a query, then one head's samples.
inline __attribute__((always_inline)) int64_t scratch_floats(const Call &call) { return 7 * call.padded; }

// Computes the work items [begin, end) of the N * Q.
using RangeKernel = void (*)(const Call &call, float *scratch, int64_t begin, int64_t end);

// A fused call and what is to be found of its gradients; each may be null. All are floats, whatever the values are.
struct GradCall {
  Call call;
  const void *out;   // [N, Q, M, D], the output's gradient, of value's type
  float *value;      // [N, S, M, D]
  float *merged;     // [N, Q, M*L*P*3]
  float *reference;  // [N, M, Q, L, 2 or 4], of each head its own part
};

// Floats that a backward kernel needs for itself: beside the above, weights, three gradients a sample, and a head of
// the output's gradient.
inline __attribute__((always_inline)) int64_t scratch_floats(const GradCall &grad) {
  return 11 * grad.call.padded + grad.call.width;
}

// Computes the work items [begin, end) of the N * M: heads of an image, each of which alone writes its gradients.
using GradKernel = void (*)(const GradCall &grad, float *scratch, int64_t begin, int64_t end);

// By idol_type.
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
