// Reads one call of the kernel's C interface from stdin and writes its output to stdout. Used by scripts/neon.py.
//
//   in   int64: classic, isa, type, merged_type, N, S, Q, M, D, L, P, reference images, reference width; h, w per level;
//        then value, and merged and reference or locations and weights, each after its number of bytes (int64)
//   out  int32 status; if it is 0, the output follows
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "idol_deform_attn_cpu.h"

namespace {

void read(void *to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(2);
}

int64_t read_int() {
  int64_t found;
  read(&found, sizeof found);
  return found;
}

// A vector of double, because a vector of char does not guarantee the alignment.
std::vector<double> read_array() {
  const auto bytes = static_cast<size_t>(read_int());
  std::vector<double> array(bytes / sizeof(double) + 1);
  read(array.data(), bytes);
  return array;
}

}  // namespace

int main() {
  const bool classic = read_int() != 0;
  const idol_options options{static_cast<int32_t>(read_int()), 2, nullptr, nullptr};
  const auto type = static_cast<int32_t>(read_int()), merged_type = static_cast<int32_t>(read_int());
  idol_sizes sizes{};
  for (int64_t *size : {&sizes.images, &sizes.tokens, &sizes.queries, &sizes.heads, &sizes.width, &sizes.levels,
                        &sizes.points})
    *size = read_int();
  const int64_t reference_images = read_int(), reference_width = read_int();
  std::vector<int64_t> shapes(static_cast<size_t>(2 * sizes.levels));
  for (int64_t &side : shapes) side = read_int();
  sizes.shapes = shapes.data();
  const std::vector<double> value = read_array(), first = read_array(), second = read_array();
  const auto count = static_cast<size_t>(sizes.images * sizes.queries * sizes.heads * sizes.width);
  std::vector<float> out(count + 1);

  int32_t status;
  if (classic) {
    idol_classic call{};
    call.sizes = sizes, call.type = type, call.value = value.data(), call.out = out.data();
    call.locations = reinterpret_cast<const float *>(first.data());
    call.weights = reinterpret_cast<const float *>(second.data());
    status = idol_deform_attn_classic(&call, &options);
  } else {
    idol_fused call{};
    call.sizes = sizes, call.type = type, call.merged_type = merged_type;
    call.value = value.data(), call.merged = first.data(), call.out = out.data();
    call.reference = reinterpret_cast<const float *>(second.data());
    call.reference_images = reference_images, call.reference_width = reference_width;
    status = idol_deform_attn_fused(&call, &options);
  }
  std::fwrite(&status, sizeof status, 1, stdout);
  if (status == IDOL_OK) std::fwrite(out.data(), type == IDOL_FLOAT32 ? 4 : 2, count, stdout);
}
