// map: y = f(a), or f(a, b) with b as a, or one b a row.
//
// Layout: a, y [T, W] and b [T, W] or [T, 1], row-major, f32, f16 or bf16 each. The rows are one long array; a thread
// takes a few vectors of it, a block apart.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/activation.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct MapArguments {
  Place a, b, y;
  int64_t width;
  int32_t function;
  bool spread;  // one b a row
  float alpha, beta;
};

inline constexpr unsigned map_threads = 256;

// Vectors a thread.
template <int count>
inline constexpr int map_each = count == 8 ? 2 : 4;

// Every comparison lets NaN pass.
__device__ __forceinline__ float clamp(float value, float low, float high) {
  const float raised = value < low ? low : value;
  return raised > high ? high : raised;
}

template <int count>
__device__ __forceinline__ Vector<count> map_vector(const MapArguments &m, const Vector<count> &a,
                                                    const Vector<count> &b) {
  Vector<count> y;
  const auto each = [&](const auto &function) {
#pragma unroll
    for (int k = 0; k < count; ++k) y.element[k] = function(a.element[k], b.element[k]);
  };
  switch (m.function) {
    case MOE_FUNCTION_ADD:
      each([&](float u, float v) { return m.alpha * u + m.beta * v; });
      break;
    case MOE_FUNCTION_MULTIPLY:
      each([](float u, float v) { return u * v; });
      break;
    case MOE_FUNCTION_SCALE:
      each([&](float u, float) { return m.alpha * u + m.beta; });
      break;
    case MOE_FUNCTION_CLAMP:
      each([&](float u, float) { return clamp(u, m.alpha, m.beta); });
      break;
    case MOE_FUNCTION_RELU:
      each([](float u, float) { return u < 0 ? 0.0f : u; });
      break;
    case MOE_FUNCTION_GELU:
      each([](float u, float) { return gelu(u); });
      break;
    case MOE_FUNCTION_GELU_TANH:
      each([](float u, float) { return gelu_tanh(u); });
      break;
    case MOE_FUNCTION_SILU:
      each([](float u, float) { return silu(u); });
      break;
    case MOE_FUNCTION_SIGMOID:
      each([](float u, float) { return sigmoid(u); });
      break;
    default:
      each([](float u, float) { return tanhf(u); });
  }
  return y;
}

template <int count>
__global__ void __launch_bounds__(map_threads) map_kernel(const Frame *frame, MapArguments m) {
  constexpr int most = map_each<count>;
  const int64_t elements = rows(frame, m.y) * m.width;
  const int64_t first = count * (static_cast<int64_t>(blockIdx.x) * map_threads * most + threadIdx.x);
  const auto place = [&](int i) { return first + int64_t{count} * map_threads * i; };
  const void *const a = at<void>(frame, m.a);
  const void *const b = at<void>(frame, m.b);
  void *const y = at<void>(frame, m.y);
  Packed<count> of_a[most] = {}, of_b[most] = {};
#pragma unroll
  for (int i = 0; i < most; ++i) {
    if (place(i) >= elements) continue;
    of_a[i] = load_packed<count>(m.a.dtype, a, place(i));
    if (b && !m.spread) of_b[i] = load_packed<count>(m.b.dtype, b, place(i));
  }
#pragma unroll
  for (int i = 0; i < most; ++i) {
    if (place(i) >= elements) continue;
    Vector<count> second = widen(m.b.dtype, of_b[i]);
    if (m.spread) {
      const float value = load_float(m.b.dtype, b, place(i) / m.width);
#pragma unroll
      for (int k = 0; k < count; ++k) second.element[k] = value;
    }
    store_vector(m.y.dtype, y, place(i), map_vector(m, widen(m.a.dtype, of_a[i]), second));
  }
}

int64_t scratch_map(const Device &, const Node &) { return 0; }

void launch_map(const Node &node, Launcher &launcher) {
  const Operand &a = node.input[0], &b = node.input[1], &y = node.output[0];
  const auto &attributes = node.as<moe_map>();
  const bool spread = b && b.elements() != a.elements();
  const MapArguments arguments{a.place, b.place,          y.place,        a.width(), attributes.function,
                               spread,  attributes.alpha, attributes.beta};
  int64_t bytes = dtype_bytes(a.dtype, a.elements()) + dtype_bytes(y.dtype, y.elements());
  with_vector(widest_float({a.dtype, spread ? -1 : b.dtype, y.dtype}), a.width(), [&](auto count) {
    if (b) bytes += dtype_bytes(b.dtype, spread ? a.elements() / count : b.elements());
    const Grid grid{dim3(blocks_for(y.elements(), int64_t{count} * map_each<count> * map_threads)), map_threads};
    launcher.run({"map", bytes, 8 * y.elements()}, map_kernel<count>, grid, arguments);
  });
}

}  // namespace moe::cuda
