// Sixteen lanes: AVX-512 F, BW, DQ and VL, with F16C.
#include <immintrin.h>

#include "cpu_vector.h"

IDOL_VECTORS(64)

namespace {

struct Lanes : idol::VectorLanes<F, I, Words> {
  using Base = idol::VectorLanes<F, I, Words>;
  using Base::load;
  using Base::store;

  static IDOL_INLINE F load(const idol::Half *from) {
    return (F)_mm512_cvtph_ps(idol::load_as<__m256i>(from));
  }
  static IDOL_INLINE void store(F what, idol::Half *to) {
    idol::store_as(to, _mm512_cvtps_ph((__m512)what, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static IDOL_INLINE void split(const float *pairs, F *first, F *second) {
    const F a = load(pairs), b = load(pairs + 16);
    *first = IDOL_SHUFFLE(a, b, I, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *second = IDOL_SHUFFLE(a, b, I, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
  static IDOL_INLINE float largest(F x) {
    F other = IDOL_SHUFFLE(x, x, I, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x = idol::select(other > x, other, x);
    other = IDOL_SHUFFLE(x, x, I, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x = idol::select(other > x, other, x);
    other = IDOL_SHUFFLE(x, x, I, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    x = idol::select(other > x, other, x);
    other = IDOL_SHUFFLE(x, x, I, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return idol::select(other > x, other, x)[0];
  }
  static IDOL_INLINE float total(F x) {
    x += IDOL_SHUFFLE(x, x, I, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += IDOL_SHUFFLE(x, x, I, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += IDOL_SHUFFLE(x, x, I, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
  }
  // In each quarter: the sums of neighbours in a, then in b.
  static IDOL_INLINE F pairwise(F a, F b) {
    return IDOL_SHUFFLE(a, b, I, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           IDOL_SHUFFLE(a, b, I, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
  }
  static IDOL_INLINE void add_totals(const F *sums, float *to) {
    const auto all = (__m512)pairwise(pairwise(sums[0], sums[1]), pairwise(sums[2], sums[3]));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 total = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), total));
  }
  static IDOL_INLINE uint64_t bits(I mask) { return _mm512_movepi32_mask((__m512i)mask); }
};

}  // namespace

namespace idol {
const Kernels avx512_kernels = kernels_of<Lanes>();
}
