// rotate: rotary positions on the first 2·F elements of each head; the rest passes through.
//
// Layout: x, y [T, heads·head_dim] row-major, f32, f16 or bf16; positions i32 [T]; frequencies f32 [F]. A block a token:
// it first computes the token's F cosines and sines into shared memory, then turns all heads by them. The pairs (i,
// i + F) are two vectors, the pairs (2i, 2i + 1) lie in one.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/shared.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct RotateArguments {
  Place x, positions, frequencies, y;
  int32_t heads, head, pairs;  // elements a head, F
  int32_t interleaved;
  float scale;
};

inline constexpr int rotate_threads = 256;

struct Turn {
  float cosine, sine;
};

// By how far a multiple of a quarter turn is away, in double, then the series about it: angles have no bound, and the
// library's own reduction of far ones needs memory of each thread.
__device__ __forceinline__ Turn turn_of(float angle) {
  constexpr double quarter = 1.5707963267948966, rest_of_quarter = 6.123233995736766e-17,
                   per_quarter = 0.6366197723675814;
  const double quarters = rint(static_cast<double>(angle) * per_quarter);
  const auto r =
      static_cast<float>(fma(-quarters, rest_of_quarter, fma(-quarters, quarter, static_cast<double>(angle))));
  const float s = r * r;
  const float sine = r + r * s * (-1.0f / 6 + s * (1.0f / 120 + s * (-1.0f / 5040 + s * (1.0f / 362880))));
  const float cosine =
      1 + s * (-0.5f + s * (1.0f / 24 + s * (-1.0f / 720 + s * (1.0f / 40320 + s * (-1.0f / 3628800)))));
  const int quadrant = static_cast<int>(static_cast<int64_t>(quarters) & 3);
  const Turn turn = (quadrant & 1) != 0 ? Turn{sine, cosine} : Turn{cosine, sine};
  return {quadrant == 1 || quadrant == 2 ? -turn.cosine : turn.cosine, quadrant >= 2 ? -turn.sine : turn.sine};
}

template <int count>
__global__ void __launch_bounds__(rotate_threads) rotate_kernel(const Frame *frame, RotateArguments a) {
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.y)) return;
  SharedCutter shared;
  const SharedArray<float> cosines = shared.take<float>(a.pairs), sines = shared.take<float>(a.pairs);
  const auto position = static_cast<float>(ptx::load(at<int32_t>(frame, a.positions) + token));
  const float *const frequencies = at<float>(frame, a.frequencies);
  for (int i = static_cast<int>(threadIdx.x); i < a.pairs; i += rotate_threads) {
    const Turn turn = turn_of(__fmul_rn(position, ptx::load(frequencies + i)));
    cosines[i] = a.scale * turn.cosine;
    sines[i] = a.scale * turn.sine;
  }
  __syncthreads();

  const void *const x = at<void>(frame, a.x);
  void *const y = at<void>(frame, a.y);
  // Vectors of a head: those that are turned, or turned with another one, then those that pass through.
  const bool within = a.interleaved != 0 && count > 1;
  const int turned = (within ? 2 : 1) * a.pairs / count;
  const int of_head = turned + (a.head - 2 * a.pairs) / count;
  const int64_t begin = token * a.heads * a.head;
  for (int item = static_cast<int>(threadIdx.x); item < a.heads * of_head; item += rotate_threads) {
    const int head = item / of_head, i = item % of_head;
    const int64_t of = begin + static_cast<int64_t>(head) * a.head;
    if (i >= turned) {
      const int64_t place = of + 2 * a.pairs + (i - turned) * count;
      store_vector(a.y.dtype, y, place, load_vector<count>(a.x.dtype, x, place));
    } else if (within) {
      Vector<count> v = load_vector<count>(a.x.dtype, x, of + i * count);
#pragma unroll
      for (int k = 0; k + 1 < count; k += 2) {
        const int pair = (i * count + k) / 2;
        const float first = v.element[k], second = v.element[k + 1];
        v.element[k] = first * cosines[pair] - second * sines[pair];
        v.element[k + 1] = second * cosines[pair] + first * sines[pair];
      }
      store_vector(a.y.dtype, y, of + i * count, v);
    } else {
      const int64_t one = of + (a.interleaved != 0 ? 2 * i : i * count);
      const int64_t other = one + (a.interleaved != 0 ? 1 : a.pairs);
      const Packed<count> of_one = load_packed<count>(a.x.dtype, x, one);
      const Packed<count> of_other = load_packed<count>(a.x.dtype, x, other);
      Vector<count> first = widen(a.x.dtype, of_one), second = widen(a.x.dtype, of_other);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        const float u = first.element[k], v = second.element[k];
        first.element[k] = u * cosines[i * count + k] - v * sines[i * count + k];
        second.element[k] = v * cosines[i * count + k] + u * sines[i * count + k];
      }
      store_vector(a.y.dtype, y, one, first);
      store_vector(a.y.dtype, y, other, second);
    }
  }
}

namespace {

size_t rotate_shared_bytes(const Node &node) {
  return static_cast<size_t>(node.input[2].elements()) * 2 * sizeof(float) + 16;
}

}  // namespace

int64_t scratch_rotate(const Device &device, const Node &node) {
  if (rotate_shared_bytes(node) > device.shared_bytes())
    throw Error(MOE_UNSUPPORTED, "frequencies", "at most " + std::to_string((device.shared_bytes() - 16) / 8),
                std::to_string(node.input[2].elements()));
  return 0;
}

void launch_rotate(const Node &node, Launcher &launcher) {
  const Operand &x = node.input[0], &positions = node.input[1], &frequencies = node.input[2], &y = node.output[0];
  const auto &attributes = node.as<moe_rotate>();
  const int64_t pairs = frequencies.elements(), head = x.width() / attributes.heads;
  const RotateArguments arguments{x.place,
                                  positions.place,
                                  frequencies.place,
                                  y.place,
                                  attributes.heads,
                                  static_cast<int32_t>(head),
                                  static_cast<int32_t>(pairs),
                                  attributes.interleaved,
                                  attributes.scale};
  const int64_t bytes =
      dtype_bytes(x.dtype, x.elements()) + dtype_bytes(y.dtype, y.elements()) + 4 * x.rows() + 4 * x.rows() * pairs;
  // Both halves of a pair start on a vector where their distance is a number of vectors too.
  const int64_t aligned = attributes.interleaved ? 2 * pairs : pairs;
  with_vector(x.dtype,
              head % 8 == 0 && aligned % 8 == 0   ? 8
              : head % 4 == 0 && aligned % 4 == 0 ? 4
                                                  : 1,
              [&](auto count) {
                launcher.run({"rotate", bytes, 3 * x.elements()}, rotate_kernel<count>,
                             {dim3(blocks_for(y.rows(), 1)), rotate_threads, rotate_shared_bytes(node)}, arguments);
              });
}

}  // namespace moe::cuda
