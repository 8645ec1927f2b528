// The C interface: check a call, make its tables, select the kernel, divide the work.
#include <atomic>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "call_checks.h"
#include "cpu_call.h"
#include "idol_deform_attn_cpu.h"

namespace {

constexpr int64_t kLanes = 16;  // lanes of the longest vectors

bool has_instructions(int32_t isa) {
  switch (isa) {
    case IDOL_ISA_SCALAR:
    case IDOL_ISA_VEC128:
      return true;
#if defined(__x86_64__)
    case IDOL_ISA_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case IDOL_ISA_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             has_instructions(IDOL_ISA_AVX2);
#endif
    default:
      return false;
  }
}

int64_t lanes_of(int32_t isa) {
  switch (isa) {
    case IDOL_ISA_VEC128:
      return 4;
    case IDOL_ISA_AVX2:
      return 8;
    case IDOL_ISA_AVX512:
      return kLanes;
    default:
      return 1;
  }
}

bool offers(int32_t isa, int64_t width) { return has_instructions(isa) && width % lanes_of(isa) == 0; }

const idol::Kernels &kernels_of(int32_t isa) {
  switch (isa) {
    case IDOL_ISA_VEC128:
      return idol::vec128_kernels;
#if defined(__x86_64__)
    case IDOL_ISA_AVX2:
      return idol::avx2_kernels;
    case IDOL_ISA_AVX512:
      return idol::avx512_kernels;
#endif
    default:
      return idol::scalar_kernels;
  }
}

// Returns the requested instruction set, or the widest that fits; negative if it is not supported.
int32_t choose_isa(const idol_options *options, int64_t width) {
  const int32_t asked = options != nullptr ? options->isa : IDOL_ISA_AUTO;
  if (asked != IDOL_ISA_AUTO) return offers(asked, width) ? asked : -1;
  for (const int32_t isa : {IDOL_ISA_AVX512, IDOL_ISA_AVX2, IDOL_ISA_VEC128})
    if (offers(isa, width)) return isa;
  return IDOL_ISA_SCALAR;
}

// The arrays that Call::samples points to.
class Tables {
 public:
  Tables(const idol_sizes &sizes, int64_t padded)
      : sides_(static_cast<size_t>(2 * padded), 1.0f), cells_(static_cast<size_t>(3 * padded)), padded_(padded) {
    for (int64_t s = 0; s < padded; ++s) cells_[at(s)] = cells_[at(padded + s)] = 1;
    int64_t start = 0, s = 0;
    for (int64_t level = 0; level < sizes.levels; ++level) {
      const int64_t h = sizes.shapes[2 * level], w = sizes.shapes[2 * level + 1];
      for (int64_t point = 0; point < sizes.points; ++point, ++s) {
        sides_[at(s)] = static_cast<float>(w);
        sides_[at(padded + s)] = static_cast<float>(h);
        cells_[at(s)] = static_cast<int32_t>(w);
        cells_[at(padded + s)] = static_cast<int32_t>(h);
        cells_[at(2 * padded + s)] = static_cast<int32_t>(start);
      }
      start += h * w;
    }
  }

  idol::Samples samples() const {
    const float *w = sides_.data();
    const int32_t *columns = cells_.data();
    return {w, w + padded_, columns, columns + padded_, columns + 2 * padded_};
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  std::vector<float> sides_;
  std::vector<int32_t> cells_;
  int64_t padded_;
};

// Returns the order of an encoder's queries. Query q is token q and samples around itself on every level. In the order
// of tiles, with all levels of a tile together, the tokens that one query reads are still cached for the next one.
std::vector<int32_t> tiled_order(const idol_sizes &sizes) {
  constexpr int64_t tile = 8;  // cells of the first level; a tile and its neighbourhood fit a second-level cache
  const int64_t rows = (sizes.shapes[0] + tile - 1) / tile, columns = (sizes.shapes[1] + tile - 1) / tile;
  std::vector<int32_t> order;
  order.reserve(static_cast<size_t>(sizes.queries));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      int64_t start = 0;
      for (int64_t level = 0; level < sizes.levels; ++level) {
        const int64_t h = sizes.shapes[2 * level], w = sizes.shapes[2 * level + 1];
        for (int64_t y = row * h / rows; y < (row + 1) * h / rows; ++y)
          for (int64_t x = column * w / columns; x < (column + 1) * w / columns; ++x)
            order.push_back(static_cast<int32_t>(start + y * w + x));
        start += h * w;
      }
    }
  }
  return order;
}

// A call that a thread pool computes; `failed` is set if a thread cannot allocate its scratch memory.
template <class Call> struct Work {
  const Call &call;
  void (*kernel)(const Call &call, float *scratch, int64_t begin, int64_t end);
  std::atomic<bool> failed{false};
};

template <class Call> void compute_range(void *opaque, int64_t begin, int64_t end) {
  Work<Call> &work = *static_cast<Work<Call> *>(opaque);
  const auto count = static_cast<size_t>(idol::scratch_floats(work.call));
  const std::unique_ptr<float[]> scratch(new (std::nothrow) float[count]);
  if (scratch == nullptr)
    work.failed = true;
  else
    work.kernel(work.call, scratch.get(), begin, end);
}

// The caller's thread computes the first part, and the rest if a thread cannot be started.
void own_threads(int64_t threads, int64_t count, idol_range range, void *work) {
  const int64_t parts = threads < count ? threads : count;
  std::vector<std::thread> started;
  int64_t covered = count / parts;
  try {
    for (int64_t part = 1; part < parts; ++part) {
      const int64_t end = count * (part + 1) / parts;
      started.emplace_back(range, work, covered, end);
      covered = end;
    }
  } catch (const std::exception &) {
    range(work, covered, count);
  }
  range(work, 0, count / parts);
  for (std::thread &thread : started) thread.join();
}

void parallel_for(const idol_options *options, int64_t count, idol_range range, void *work) {
  if (options != nullptr && options->parallel_for != nullptr)
    options->parallel_for(options->pool, count, range, work);
  else
    own_threads(options != nullptr && options->threads > 1 ? options->threads : 1, count, range, work);
}

// Makes the tables of a call whose arrays and sizes are set, and computes `count` work items.
template <class Call>
int32_t run(const idol_sizes &sizes, int32_t isa, const idol_options *options, int64_t count, idol::Call *tabled,
            Work<Call> *work) {
  if (count == 0) return IDOL_OK;
  const int64_t lanes = lanes_of(isa);
  tabled->padded = (sizes.levels * sizes.points + lanes - 1) / lanes * lanes;
  const Tables tables(sizes, tabled->padded);
  tabled->samples = tables.samples();
  const std::vector<int32_t> order = sizes.queries == sizes.tokens ? tiled_order(sizes) : std::vector<int32_t>();
  tabled->order = order.empty() ? nullptr : order.data();
  parallel_for(options, count, compute_range<Call>, work);
  return work->failed ? IDOL_OUT_OF_MEMORY : IDOL_OK;
}

int32_t run(const idol_sizes &sizes, int32_t type, const idol_options *options, idol::Call *call) {
  const int32_t isa = choose_isa(options, sizes.width);
  if (isa < 0) return IDOL_BAD_ISA;
  Work<idol::Call> work{*call, kernels_of(isa).by_type[type]};
  try {
    return run(sizes, isa, options, sizes.images * sizes.queries, call, &work);
  } catch (const std::exception &) {
    return IDOL_OUT_OF_MEMORY;
  }
}

idol::Call describe(const idol_sizes &sizes) {
  idol::Call call{};
  call.tokens = sizes.tokens, call.queries = sizes.queries;
  call.heads = sizes.heads, call.width = sizes.width;
  call.levels = sizes.levels, call.points = sizes.points;
  return call;
}

idol::Call describe(const idol_fused &of) {
  idol::Call call = describe(of.sizes);
  call.value = of.value, call.merged = of.merged, call.reference = of.reference, call.out = of.out;
  call.half_merged = of.merged_type == IDOL_FLOAT16;
  call.reference_width = of.reference_width;
  call.reference_stride = of.reference_images == 1 ? 0 : of.sizes.queries * of.sizes.levels * of.reference_width;
  return call;
}

// The sum of a reference's gradients over the heads, and over the images if they share the reference, in fixed order.
struct Reduction {
  const float *parts;  // [N, heads, count]
  int64_t heads, count;
  int64_t shared;  // images in one sum
  float *to;
};

void reduce_range(void *opaque, int64_t begin, int64_t end) {
  const Reduction &work = *static_cast<Reduction *>(opaque);
  const int64_t parts = work.shared * work.heads;
  for (int64_t i = begin; i < end; ++i) {
    const float *from = work.parts + i / work.count * parts * work.count + i % work.count;
    float sum = 0.0f;
    for (int64_t part = 0; part < parts; ++part) sum += from[part * work.count];
    work.to[i] = sum;
  }
}

int32_t run_backward(const idol_fused_grad &grad, const idol_options *options, int32_t isa) {
  const idol_sizes &sizes = grad.call.sizes;
  idol::GradCall call{describe(grad.call), grad.grad_out, grad.grad_value, grad.grad_merged, nullptr};
  const int64_t count = sizes.queries * sizes.levels * grad.call.reference_width, heads = sizes.images * sizes.heads;
  std::unique_ptr<float[]> parts;
  if (grad.grad_reference != nullptr) {
    parts.reset(new float[static_cast<size_t>(heads * count)]);
    call.reference = parts.get();
  }
  Work<idol::GradCall> work{call, kernels_of(isa).backward_by_type[grad.call.type]};
  if (const int32_t status = run(sizes, isa, options, heads, &call.call, &work)) return status;
  const int64_t sums = grad.call.reference_images * count;
  if (grad.grad_reference == nullptr || sums == 0) return IDOL_OK;
  const int64_t shared = sizes.images / grad.call.reference_images;
  Reduction reduction{parts.get(), sizes.heads, count, shared, grad.grad_reference};
  parallel_for(options, sums, reduce_range, &reduction);
  return IDOL_OK;
}

}  // namespace

int32_t idol_deform_attn_fused(const idol_fused *call, const idol_options *options) {
  if (const int32_t status = idol::check(call)) return status;
  idol::Call work = describe(*call);
  return run(call->sizes, call->type, options, &work);
}

int32_t idol_deform_attn_fused_backward(const idol_fused_grad *call, const idol_options *options) {
  if (const int32_t status = idol::check(call)) return status;
  const int32_t isa = choose_isa(options, call->call.sizes.width);
  if (isa < 0) return IDOL_BAD_ISA;
  try {
    return run_backward(*call, options, isa);
  } catch (const std::exception &) {
    return IDOL_OUT_OF_MEMORY;
  }
}

int32_t idol_deform_attn_classic(const idol_classic *call, const idol_options *options) {
  if (const int32_t status = idol::check(call)) return status;
  idol::Call work = describe(call->sizes);
  work.value = call->value, work.out = call->out;
  work.locations = call->locations, work.weights = call->weights;
  return run(call->sizes, call->type, options, &work);
}

int32_t idol_deform_attn_offers(int32_t isa, int64_t width) {
  return width > 0 && (isa == IDOL_ISA_AUTO || offers(isa, width));
}

int32_t idol_deform_attn_abi(void) { return IDOL_DEFORM_ATTN_ABI; }
