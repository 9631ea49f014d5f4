// take: y[i] = x[index[i]], zeros where the index is out of range.
//
// Layout: x [T, W], y [M, W], row-major, of one dtype; rows are copied as bytes, in the largest words that divide them.
// Bound: bytes. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/vector.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct TakeArguments {
  Place x, index, y;
  int64_t words;  // of a row
  RowShape shape;
};

inline constexpr int take_most_threads = 256, take_each = 4;

template <int bytes>
struct WordOf;
template <>
struct WordOf<16> {
  using Type = uint4;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<4> {
  using Type = uint32_t;
};
template <>
struct WordOf<2> {
  using Type = uint16_t;
};

template <int bytes>
__global__ void __launch_bounds__(take_most_threads) take_kernel(const Frame *frame, TakeArguments a) {
  using Word = typename WordOf<bytes>::Type;
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * a.shape.rows_per_block + thread / a.shape.lanes;
  if (row >= rows(frame, a.y)) return;
  const int64_t index = ptx::load(at<int32_t>(frame, a.index) + row);
  const bool known = index >= 0 && index < rows(frame, a.x);
  const Word *const from = at<Word>(frame, a.x) + (known ? index * a.words : 0);
  Word *const to = at<Word>(frame, a.y) + row * a.words;
  for (int64_t first = thread % a.shape.lanes; first < a.words; first += int64_t{take_each} * a.shape.lanes) {
    Word word[take_each] = {};
#pragma unroll
    for (int i = 0; i < take_each; ++i)
      if (known && first + i * a.shape.lanes < a.words) word[i] = ptx::load(from + first + i * a.shape.lanes);
#pragma unroll
    for (int i = 0; i < take_each; ++i)
      if (first + i * a.shape.lanes < a.words) ptx::store(to + first + i * a.shape.lanes, word[i]);
  }
}

int64_t scratch_take(const Device &, const Node &) { return 0; }

void launch_take(const Node &node, Launcher &launcher) {
  const Operand &x = node.input[0], &index = node.input[1], &y = node.output[0];
  const int64_t row_bytes = dtype_bytes(x.dtype, x.width());
  const auto launch = [&](auto bytes) {
    const int64_t words = row_bytes / bytes;
    const TakeArguments arguments{x.place, index.place, y.place, words, row_shape(words, take_each, take_most_threads)};
    const Grid grid{dim3(blocks_for(y.rows(), arguments.shape.rows_per_block)), arguments.shape.threads};
    launcher.run({"take", 2 * row_bytes * y.rows() + 4 * y.rows()}, take_kernel<bytes>, grid, arguments);
  };
  if (row_bytes % 16 == 0) return launch(std::integral_constant<int, 16>{});
  if (row_bytes % 8 == 0) return launch(std::integral_constant<int, 8>{});
  if (row_bytes % 4 == 0) return launch(std::integral_constant<int, 4>{});
  launch(std::integral_constant<int, 2>{});
}

}  // namespace moe::cuda
