/* A caller of a plugin library that behaves as TensorRT, without TensorRT; for idol_plugins.trt.harness.
 *
 * Types, formats and phases are TensorRT's numbers. Texts are valid until the next call for the same object. Messages
 * that the tested library logs are collected for idol_trt_said(). Not thread-safe.
 */
#ifndef IDOL_TRT_HARNESS_H
#define IDOL_TRT_HARNESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IDOL_HARNESS_EXPORT __attribute__((visibility("default")))
#define IDOL_TRT_MOST_DIMS 8

typedef struct idol_trt_library idol_trt_library;
typedef struct idol_trt_plugin idol_trt_plugin;

typedef struct {
  int32_t type, format, rank;
  int64_t sizes[IDOL_TRT_MOST_DIMS]; /* negative: not known yet */
} idol_trt_tensor;

typedef struct {
  const char *name;
  const void *data;
  int32_t type, length;
} idol_trt_field;

enum idol_trt_text { IDOL_TRT_KIND, IDOL_TRT_NAME, IDOL_TRT_VERSION, IDOL_TRT_NAMESPACE, IDOL_TRT_CACHE_ID,
                     IDOL_TRT_METADATA };

/* Returns the version of the headers that the harness was compiled with, in TensorRT's form: 101401 for 10.14.1. */
IDOL_HARNESS_EXPORT int32_t idol_trt_headers(void);

/* Loads a library with a logger of TensorRT `major` (0: the headers' version); returns null and `why` on failure. */
IDOL_HARNESS_EXPORT idol_trt_library *idol_trt_open(const char *path, int32_t major, char *why, int32_t size);
IDOL_HARNESS_EXPORT void idol_trt_close(idol_trt_library *library);
/* Returns the lines logged since the last call, each "severity text". */
IDOL_HARNESS_EXPORT const char *idol_trt_said(idol_trt_library *library);
/* 1 if enqueue takes host pointers, 0 if device pointers, -1 if the library does not export it. */
IDOL_HARNESS_EXPORT int32_t idol_trt_on_host(const idol_trt_library *library);

IDOL_HARNESS_EXPORT int32_t idol_trt_creators(const idol_trt_library *library);
IDOL_HARNESS_EXPORT const char *idol_trt_creator_text(const idol_trt_library *library, int32_t creator, int32_t text);
/* Copies the fields that a creator declares and returns their number. */
IDOL_HARNESS_EXPORT int32_t idol_trt_creator_fields(const idol_trt_library *library, int32_t creator,
                                                    idol_trt_field *fields, int32_t most);
/* Returns null if the creator refuses the fields. */
IDOL_HARNESS_EXPORT idol_trt_plugin *idol_trt_create(const idol_trt_library *library, int32_t creator,
                                                     const idol_trt_field *fields, int32_t count, int32_t phase);

IDOL_HARNESS_EXPORT void idol_trt_destroy(idol_trt_plugin *plugin);
IDOL_HARNESS_EXPORT idol_trt_plugin *idol_trt_clone(idol_trt_plugin *plugin);
IDOL_HARNESS_EXPORT idol_trt_plugin *idol_trt_attach(idol_trt_plugin *plugin);
/* Returns null for a text that the plugin does not have. */
IDOL_HARNESS_EXPORT const char *idol_trt_plugin_text(idol_trt_plugin *plugin, int32_t text);
/* Returns the interface of a capability, as "KIND major.minor"; null if there is none. */
IDOL_HARNESS_EXPORT const char *idol_trt_capability(idol_trt_plugin *plugin, int32_t capability);
IDOL_HARNESS_EXPORT int32_t idol_trt_outputs(idol_trt_plugin *plugin);
IDOL_HARNESS_EXPORT int32_t idol_trt_tactics(idol_trt_plugin *plugin);
/* Returns the input that an output aliases; -1 for none. */
IDOL_HARNESS_EXPORT int32_t idol_trt_aliased(idol_trt_plugin *plugin, int32_t output);

/* The following call the plugin's methods and return their results; `tensors` are the inputs, then the outputs. */
IDOL_HARNESS_EXPORT int32_t idol_trt_supports(idol_trt_plugin *plugin, int32_t position,
                                              const idol_trt_tensor *tensors, int32_t inputs, int32_t outputs);
IDOL_HARNESS_EXPORT int32_t idol_trt_output_types(idol_trt_plugin *plugin, const int32_t *input_types, int32_t inputs,
                                                  int32_t *output_types, int32_t outputs);
/* Gets the outputs' shapes, with the negative sizes of `known` as symbols, and evaluates them for the sizes of
 * `actual`. A size that is no constant is negated, less one. */
IDOL_HARNESS_EXPORT int32_t idol_trt_output_shapes(idol_trt_plugin *plugin, const idol_trt_tensor *known,
                                                   const idol_trt_tensor *actual, int32_t inputs,
                                                   idol_trt_tensor *found, int32_t outputs);
IDOL_HARNESS_EXPORT int32_t idol_trt_configure(idol_trt_plugin *plugin, const idol_trt_tensor *tensors,
                                               int32_t inputs, int32_t outputs);
IDOL_HARNESS_EXPORT int64_t idol_trt_workspace(idol_trt_plugin *plugin, const idol_trt_tensor *tensors,
                                               int32_t inputs, int32_t outputs);
IDOL_HARNESS_EXPORT int32_t idol_trt_shape_change(idol_trt_plugin *plugin, const idol_trt_tensor *tensors,
                                                  int32_t inputs, int32_t outputs);
IDOL_HARNESS_EXPORT int32_t idol_trt_stored_fields(idol_trt_plugin *plugin, idol_trt_field *fields, int32_t most);
IDOL_HARNESS_EXPORT int32_t idol_trt_enqueue(idol_trt_plugin *plugin, const idol_trt_tensor *tensors, int32_t inputs,
                                             int32_t outputs, const void *const *input_data,
                                             void *const *output_data, void *stream);

#ifdef __cplusplus
}
#endif

#endif
