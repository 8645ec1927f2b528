// Four lanes: NEON on aarch64, SSE2 on x86-64; on other processors, the compiler's choice.
#include "cpu_vector.h"

IDOL_VECTORS(16)

namespace {

struct Lanes : idol::VectorLanes<F, I, Words> {
  using Base = idol::VectorLanes<F, I, Words>;
  using Base::load;

#if defined(__aarch64__)
  static IDOL_INLINE F load(const idol::Half *from) {
    using Halves = __fp16 __attribute__((vector_size(8)));
    return __builtin_convertvector(idol::load_as<Halves>(from), F);
  }
#endif
  static IDOL_INLINE void split(const float *pairs, F *first, F *second) {
    const F a = load(pairs), b = load(pairs + 4);
    *first = IDOL_SHUFFLE(a, b, I, 0, 2, 4, 6);
    *second = IDOL_SHUFFLE(a, b, I, 1, 3, 5, 7);
  }
  static IDOL_INLINE F pairwise(F a, F b) {
    return IDOL_SHUFFLE(a, b, I, 0, 2, 4, 6) + IDOL_SHUFFLE(a, b, I, 1, 3, 5, 7);
  }
  static IDOL_INLINE void add_totals(const F *sums, float *to) {
    Base::store(Base::load(to) + pairwise(pairwise(sums[0], sums[1]), pairwise(sums[2], sums[3])), to);
  }
};

}  // namespace

namespace idol {
const Kernels vec128_kernels = kernels_of<Lanes>();
}
