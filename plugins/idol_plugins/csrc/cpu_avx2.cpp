// Eight lanes: AVX2 with FMA and F16C.
#include <immintrin.h>

#include "cpu_vector.h"

IDOL_VECTORS(32)

namespace {

struct Lanes : idol::VectorLanes<F, I, Words> {
  using Base = idol::VectorLanes<F, I, Words>;
  using Base::load;
  using Base::store;

  static IDOL_INLINE F load(const idol::Half *from) {
    return (F)_mm256_cvtph_ps(idol::load_as<__m128i>(from));
  }
  static IDOL_INLINE void store(F what, idol::Half *to) {
    idol::store_as(to, _mm256_cvtps_ph((__m256)what, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static IDOL_INLINE void split(const float *pairs, F *first, F *second) {
    const F a = load(pairs), b = load(pairs + 8);
    *first = IDOL_SHUFFLE(a, b, I, 0, 2, 4, 6, 8, 10, 12, 14);
    *second = IDOL_SHUFFLE(a, b, I, 1, 3, 5, 7, 9, 11, 13, 15);
  }
  static IDOL_INLINE float largest(F x) {
    F other = IDOL_SHUFFLE(x, x, I, 4, 5, 6, 7, 0, 1, 2, 3);
    x = idol::select(other > x, other, x);
    other = IDOL_SHUFFLE(x, x, I, 2, 3, 0, 1, 6, 7, 4, 5);
    x = idol::select(other > x, other, x);
    other = IDOL_SHUFFLE(x, x, I, 1, 0, 3, 2, 5, 4, 7, 6);
    return idol::select(other > x, other, x)[0];
  }
  static IDOL_INLINE float total(F x) {
    x += IDOL_SHUFFLE(x, x, I, 4, 5, 6, 7, 0, 1, 2, 3);
    x += IDOL_SHUFFLE(x, x, I, 2, 3, 0, 1, 6, 7, 4, 5);
    return x[0] + x[1];
  }
  // In each half: the sums of neighbours in a, then in b.
  static IDOL_INLINE F pairwise(F a, F b) { return (F)_mm256_hadd_ps((__m256)a, (__m256)b); }
  static IDOL_INLINE void add_totals(const F *sums, float *to) {
    const auto both = (__m256)pairwise(pairwise(sums[0], sums[1]), pairwise(sums[2], sums[3]));
    const __m128 total = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), total));
  }
  static IDOL_INLINE uint64_t bits(I mask) { return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask)); }
};

}  // namespace

namespace idol {
const Kernels avx2_kernels = kernels_of<Lanes>();
}
