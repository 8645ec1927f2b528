// Baseline kernel of the usual design: one thread per output channel, scalar loads, coordinates and sums in the type of
// the values, locations and weights computed beforehand by other kernels.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace {

struct Call {
  const void *value;                        // [N, S, M, D]
  const void *locations, *weights;          // [N, Q, M, L, P, 2], [N, Q, M, L, P], of value's type
  const int32_t *shapes, *starts;           // [L, 2] (h, w) and [L], on the device
  void *out;                                // [N, Q, M, D]
  int32_t tokens, queries, heads, width, levels, points, total;
};

template <class T> __device__ __forceinline__ T whole(int32_t x) { return static_cast<T>(static_cast<float>(x)); }
__device__ __forceinline__ int32_t floor_of(float x) { return __float2int_rd(x); }
__device__ __forceinline__ int32_t floor_of(__half x) { return __half2int_rd(x); }

template <class T>
__device__ T sample(const T *map, int32_t height, int32_t width, int32_t stride, T y, T x) {
  const int32_t top = floor_of(y), left = floor_of(x), bottom = top + 1, right = left + 1;
  const T one = whole<T>(1), down = y - whole<T>(top), across = x - whole<T>(left);
  const T up = one - down, back = one - across;
  T a = whole<T>(0), b = a, c = a, d = a;
  if (top >= 0 && left >= 0) a = map[(top * width + left) * stride];
  if (top >= 0 && right < width) b = map[(top * width + right) * stride];
  if (bottom < height && left >= 0) c = map[(bottom * width + left) * stride];
  if (bottom < height && right < width) d = map[(bottom * width + right) * stride];
  return up * back * a + up * across * b + down * back * c + down * across * d;
}

template <class T> __global__ void stock(const Call call) {
  const int32_t step = static_cast<int32_t>(blockDim.x * gridDim.x);
  for (int32_t i = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x); i < call.total; i += step) {
    const int32_t channel = i % call.width, pair = i / call.width, head = pair % call.heads;
    const int32_t image = pair / call.heads / call.queries, stride = call.heads * call.width;
    const T *weight = static_cast<const T *>(call.weights) + pair * call.levels * call.points;
    const T *location = static_cast<const T *>(call.locations) + pair * call.levels * call.points * 2;
    const T *value = static_cast<const T *>(call.value) + image * call.tokens * stride + head * call.width + channel;
    T sum = whole<T>(0);
    for (int32_t level = 0; level < call.levels; ++level) {
      const int32_t height = call.shapes[2 * level], width = call.shapes[2 * level + 1];
      const T *map = value + call.starts[level] * stride;
      for (int32_t point = 0; point < call.points; ++point, ++weight, location += 2) {
        const T half = static_cast<T>(0.5f);
        const T x = location[0] * whole<T>(width) - half, y = location[1] * whole<T>(height) - half, edge = whole<T>(-1);
        if (y > edge && x > edge && y < whole<T>(height) && x < whole<T>(width))
          sum += sample(map, height, width, stride, y, x) * *weight;
      }
    }
    static_cast<T *>(call.out)[i] = sum;
  }
}

}  // namespace

// `half` picks fp16 over fp32; `shapes` and `starts` are device pointers. Returns a cudaError_t.
extern "C" __attribute__((visibility("default"))) int32_t stock_deform_attn(
    int32_t half, const void *value, const int32_t *shapes, const int32_t *starts, const void *locations,
    const void *weights, void *out, int32_t images, int32_t tokens, int32_t queries, int32_t heads, int32_t width,
    int32_t levels, int32_t points, void *stream) {
  const int32_t total = images * queries * heads * width;
  const Call call{value, locations, weights, shapes, starts, out, tokens, queries, heads, width, levels, points, total};
  const unsigned blocks = static_cast<unsigned>((total + 1023) / 1024);
  auto *const on = static_cast<cudaStream_t>(stream);
  if (half) {
    stock<__half><<<blocks, 1024, 0, on>>>(call);
  } else {
    stock<float><<<blocks, 1024, 0, on>>>(call);
  }
  return static_cast<int32_t>(cudaGetLastError());
}
