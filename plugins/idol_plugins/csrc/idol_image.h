/* Resizing of images on a CPU, as a plain C interface. Any number of threads may call at once. */
#ifndef IDOL_IMAGE_H
#define IDOL_IMAGE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IDOL_IMAGE_ABI 1
#define IDOL_IMAGE_EXPORT __attribute__((visibility("default")))
#define IDOL_IMAGE_BITS 22 /* behind the point of a weight */

enum idol_image_status { IDOL_IMAGE_OK = 0, IDOL_IMAGE_NULL_POINTER = 1, IDOL_IMAGE_BAD_AXIS = 2, IDOL_IMAGE_NO_MEMORY = 3 };

/* Of one axis of the result: pixel i is the sum of `taps` pixels from first[i] on, times weights[i * taps] and those
 * behind it, none of which is below 0, and which add up to 1 << IDOL_IMAGE_BITS but for their rounding. */
typedef struct {
  int64_t from, to; /* pixels before and after */
  int64_t taps;     /* `from` at most */
  const int32_t *first;   /* [to]; first[i] + taps is `from` at most */
  const int32_t *weights; /* [to, taps] */
} idol_image_axis;

/* [rows.from, columns.from, 3] to [rows.to, columns.to, 3], both dense: along the columns, rounded to 8 bits, then along
 * the rows. `first` of the rows must not fall. Returns an idol_image_status. */
IDOL_IMAGE_EXPORT int32_t idol_image_resize(const uint8_t *from, const idol_image_axis *rows,
                                            const idol_image_axis *columns, uint8_t *to);

IDOL_IMAGE_EXPORT int32_t idol_image_abi(void);

#ifdef __cplusplus
}
#endif

#endif
