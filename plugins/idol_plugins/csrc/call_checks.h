// The checks of a call that every kernel target makes before it reads a pointer.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "idol_deform_attn_cpu.h"

namespace idol {

constexpr int64_t kMostSide = int64_t{1} << 24;    // a float represents every cell index exactly up to here
constexpr int64_t kMostTokens = int64_t{1} << 30;  // a token index fits int32_t
constexpr int64_t kMost = int64_t{1} << 40;        // the size of any array in bytes fits 63 bits

inline bool product_fits(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor < 0 || factor > kMost) return false;
    if (__builtin_mul_overflow(product, factor, &product) || product > kMost) return false;
  }
  return true;
}

inline bool sizes_fit(const idol_sizes &s) {
  if (s.heads < 1 || s.width < 1 || s.levels < 1 || s.points < 1 || s.shapes == nullptr) return false;
  if (!product_fits({s.images, s.tokens, s.heads, s.width})) return false;
  if (!product_fits({s.images, s.queries, s.heads, s.width})) return false;
  if (!product_fits({s.images, s.queries, s.heads, s.levels, s.points, 3})) return false;
  if (!product_fits({s.heads, s.levels, s.points, 64})) return false;
  int64_t tokens = 0;
  for (int64_t level = 0; level < s.levels; ++level) {
    const int64_t h = s.shapes[2 * level], w = s.shapes[2 * level + 1];
    if (h < 1 || w < 1 || h > kMostSide || w > kMostSide) return false;
    tokens += h * w;
    if (tokens > kMostTokens) return false;
  }
  return tokens == s.tokens;
}

inline bool is_type(int32_t type) { return type >= IDOL_FLOAT32 && type <= IDOL_BFLOAT16; }

inline bool types_fit(int32_t type, int32_t merged_type) {
  return is_type(type) && (merged_type == IDOL_FLOAT32 || (merged_type == IDOL_FLOAT16 && type == IDOL_FLOAT16));
}

inline bool is_empty(const idol_sizes &sizes) { return sizes.images == 0 || sizes.queries == 0; }

// Checks everything except `out`.
inline int32_t check_inputs(const idol_fused *call) {
  if (!sizes_fit(call->sizes)) return IDOL_BAD_SHAPE;
  if (call->reference_width != 2 && call->reference_width != 4) return IDOL_BAD_SHAPE;
  if (call->reference_images != 1 && call->reference_images != call->sizes.images) return IDOL_BAD_SHAPE;
  if (!types_fit(call->type, call->merged_type)) return IDOL_BAD_TYPE;
  const bool given = call->value && call->merged && call->reference;
  return given || is_empty(call->sizes) ? IDOL_OK : IDOL_NULL_POINTER;
}

inline int32_t check(const idol_fused *call) {
  if (call == nullptr) return IDOL_NULL_POINTER;
  if (const int32_t status = check_inputs(call)) return status;
  return call->out || is_empty(call->sizes) ? IDOL_OK : IDOL_NULL_POINTER;
}

inline int32_t check(const idol_fused_grad *grad) {
  if (grad == nullptr) return IDOL_NULL_POINTER;
  if (const int32_t status = check_inputs(&grad->call)) return status;
  return grad->grad_out || is_empty(grad->call.sizes) ? IDOL_OK : IDOL_NULL_POINTER;
}

inline int32_t check(const idol_classic *call) {
  if (call == nullptr) return IDOL_NULL_POINTER;
  if (!sizes_fit(call->sizes)) return IDOL_BAD_SHAPE;
  if (!is_type(call->type)) return IDOL_BAD_TYPE;
  const bool given = call->value && call->locations && call->weights && call->out;
  return given || is_empty(call->sizes) ? IDOL_OK : IDOL_NULL_POINTER;
}

// Explains a status to the user of an inference engine.
inline const char *text_of(int32_t status) {
  switch (status) {
    case IDOL_BAD_SHAPE:
      return "sizes must be positive, the tokens as many as the cells of all levels, and reference [N or 1, Q, L, 2 or 4]";
    case IDOL_BAD_TYPE:
      return "this combination of types is not supported";
    case IDOL_OUT_OF_MEMORY:
      return "out of memory";
    default:
      return "the kernel refuses the call";
  }
}

}  // namespace idol
