/* Resizing of images on a CPU, as a plain C interface. Functions are thread-safe. */
#ifndef IDOL_IMAGE_H
#define IDOL_IMAGE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IDOL_IMAGE_ABI 1
#define IDOL_IMAGE_EXPORT __attribute__((visibility("default")))
#define IDOL_IMAGE_BITS 22 /* fractional bits of a weight */

enum idol_image_status { IDOL_IMAGE_OK = 0, IDOL_IMAGE_NULL_POINTER = 1, IDOL_IMAGE_BAD_AXIS = 2, IDOL_IMAGE_NO_MEMORY = 3 };

/* One axis of the result. Pixel i is the sum of `taps` input pixels from first[i] on, times the weights from
 * weights[i * taps] on. Weights are not negative and add up to 1 << IDOL_IMAGE_BITS, apart from rounding. */
typedef struct {
  int64_t from, to; /* pixels before and after */
  int64_t taps;     /* at most `from` */
  const int32_t *first;   /* [to]; first[i] + taps is at most `from` */
  const int32_t *weights; /* [to, taps] */
} idol_image_axis;

/* Resizes [rows.from, columns.from, 3] to [rows.to, columns.to, 3], both dense: first along the columns, rounded to 8
 * bits, then along the rows. `first` of the rows must not decrease. Returns an idol_image_status. */
IDOL_IMAGE_EXPORT int32_t idol_image_resize(const uint8_t *from, const idol_image_axis *rows,
                                            const idol_image_axis *columns, uint8_t *to);

IDOL_IMAGE_EXPORT int32_t idol_image_abi(void);

#ifdef __cplusplus
}
#endif

#endif
