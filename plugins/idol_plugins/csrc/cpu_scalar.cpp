// One lane: heads of any width, on any processor.
#include "cpu_backward.h"

namespace {

struct Lanes {
  using F = float;
  using I = int32_t;
  static constexpr int count = 1;

  template <class T> static IDOL_INLINE float load(const T *from) { return idol::widen(*from); }
  template <class T> static IDOL_INLINE void store(float what, T *to) { idol::narrow(what, to); }
  static IDOL_INLINE void split(const float *pairs, float *first, float *second) {
    *first = pairs[0];
    *second = pairs[1];
  }
  static IDOL_INLINE float largest(float x) { return x; }
  static IDOL_INLINE float total(float x) { return x; }
  static IDOL_INLINE void add_totals(const float *sums, float *to) {
    for (int i = 0; i < 4; ++i) to[i] += sums[i];
  }
  static IDOL_INLINE uint64_t bits(int mask) { return static_cast<uint64_t>(mask & 1); }
};

}  // namespace

namespace idol {
const Kernels scalar_kernels = kernels_of<Lanes>();
}
