// Resizing in two integer passes; the second processes complete rows.
#include <memory>
#include <new>

#include "idol_image.h"

namespace {

#define IDOL_INLINE inline __attribute__((always_inline))

constexpr int64_t kChannels = 3;
constexpr int32_t kHalf = 1 << (IDOL_IMAGE_BITS - 1);

struct Work {
  const uint8_t *from;
  const idol_image_axis &rows, &columns;
  uint8_t *to;
  uint8_t *narrow;  // [rows.taps, columns.to * 3]: ring buffer of rows after the first pass
  int32_t *sums;    // [columns.to * 3]
};

// `Taps`: number of taps, so that the compiler unrolls the loop; 0: the number of the axis.
template <int Taps> IDOL_INLINE void along_columns(const uint8_t *from, const idol_image_axis &axis, uint8_t *to) {
  const int64_t taps = Taps > 0 ? Taps : axis.taps;
  for (int64_t x = 0; x < axis.to; ++x) {
    const uint8_t *pixel = from + kChannels * axis.first[x];
    const int32_t *weight = axis.weights + x * taps;
    int32_t red = kHalf, green = kHalf, blue = kHalf;
    for (int64_t tap = 0; tap < taps; ++tap, pixel += kChannels) {
      red += pixel[0] * weight[tap];
      green += pixel[1] * weight[tap];
      blue += pixel[2] * weight[tap];
    }
    to[kChannels * x] = static_cast<uint8_t>(red >> IDOL_IMAGE_BITS);
    to[kChannels * x + 1] = static_cast<uint8_t>(green >> IDOL_IMAGE_BITS);
    to[kChannels * x + 2] = static_cast<uint8_t>(blue >> IDOL_IMAGE_BITS);
  }
}

IDOL_INLINE void along_columns(const uint8_t *from, const idol_image_axis &axis, uint8_t *to) {
  switch (axis.taps) {
    case 2:
      return along_columns<2>(from, axis, to);
    case 3:
      return along_columns<3>(from, axis, to);
    case 4:
      return along_columns<4>(from, axis, to);
    case 5:
      return along_columns<5>(from, axis, to);
    case 6:
      return along_columns<6>(from, axis, to);
    default:
      return along_columns<0>(from, axis, to);
  }
}

IDOL_INLINE void resize(const Work &work) {
  const int64_t before = kChannels * work.columns.from, after = kChannels * work.columns.to;
  int64_t done = 0;  // rows that passed the first pass, or that are not needed
  for (int64_t y = 0; y < work.rows.to; ++y) {
    const int64_t first = work.rows.first[y], end = first + work.rows.taps;
    for (done = done < first ? first : done; done < end; ++done)
      along_columns(work.from + done * before, work.columns, work.narrow + done % work.rows.taps * after);
    for (int64_t i = 0; i < after; ++i) work.sums[i] = kHalf;
    for (int64_t row = first; row < end; ++row) {
      const uint8_t *narrow = work.narrow + row % work.rows.taps * after;
      const int32_t weight = work.rows.weights[y * work.rows.taps + row - first];
      for (int64_t i = 0; i < after; ++i) work.sums[i] += narrow[i] * weight;
    }
    uint8_t *to = work.to + y * after;
    for (int64_t i = 0; i < after; ++i) to[i] = static_cast<uint8_t>(work.sums[i] >> IDOL_IMAGE_BITS);
  }
}

void resize_anywhere(const Work &work) { resize(work); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) void resize_avx2(const Work &work) { resize(work); }
#endif

bool fits(const idol_image_axis &axis, bool ordered) {
  if (axis.from < 1 || axis.to < 1 || axis.taps < 1) return false;
  for (int64_t i = 0; i < axis.to; ++i) {
    const int64_t first = axis.first[i];
    if (first < 0 || first + axis.taps > axis.from) return false;
    if (ordered && i > 0 && first < axis.first[i - 1]) return false;
  }
  return true;
}

bool missing(const idol_image_axis *axis) {
  return axis == nullptr || axis->first == nullptr || axis->weights == nullptr;
}

}  // namespace

int32_t idol_image_resize(const uint8_t *from, const idol_image_axis *rows, const idol_image_axis *columns, uint8_t *to) {
  if (from == nullptr || to == nullptr || missing(rows) || missing(columns)) return IDOL_IMAGE_NULL_POINTER;
  if (!fits(*rows, true) || !fits(*columns, false)) return IDOL_IMAGE_BAD_AXIS;
  const auto width = static_cast<size_t>(kChannels * columns->to);
  const std::unique_ptr<uint8_t[]> narrow(new (std::nothrow) uint8_t[static_cast<size_t>(rows->taps) * width]);
  const std::unique_ptr<int32_t[]> sums(new (std::nothrow) int32_t[width]);
  if (narrow == nullptr || sums == nullptr) return IDOL_IMAGE_NO_MEMORY;
  const Work work{from, *rows, *columns, to, narrow.get(), sums.get()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    resize_avx2(work);
    return IDOL_IMAGE_OK;
  }
#endif
  resize_anywhere(work);
  return IDOL_IMAGE_OK;
}

int32_t idol_image_abi(void) { return IDOL_IMAGE_ABI; }
