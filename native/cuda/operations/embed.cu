// embed: y[t] = scale · table[ids[t]].
//
// Layout: table [V, H] and y [T, H], row-major, f32, f16 or bf16 each; ids i32 [T].
// Bound: bytes. Each chosen row is read once, each output written once. Share reached: not measured on a GPU yet.
#include "host/launcher.h"
#include "host/node.h"
#include "kernel/element.h"
#include "moe/dtype.h"

namespace moe::cuda {

struct EmbedArguments {
  Place ids, table, y;
  int64_t vocabulary, width;
  float scale;
};

inline constexpr unsigned embed_threads = 256;

// A block a token.
__global__ void __launch_bounds__(embed_threads) embed_kernel(const Frame *frame, EmbedArguments a) {
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.y)) return;
  const int64_t id = ptx::load(at<int32_t>(frame, a.ids) + token);
  const bool known = id >= 0 && id < a.vocabulary;
  const void *const table = at<void>(frame, a.table);
  void *const y = at<void>(frame, a.y);
  const int64_t from = known ? id * a.width : 0, to = token * a.width;
  if (a.width % 4 == 0) {
    for (int64_t i = 4 * static_cast<int64_t>(threadIdx.x); i < a.width; i += 4 * embed_threads) {
      float4 v = make_float4(0, 0, 0, 0);
      if (known) v = load_float4(a.table.dtype, table, from + i);
      store_float4(a.y.dtype, y, to + i, make_float4(a.scale * v.x, a.scale * v.y, a.scale * v.z, a.scale * v.w));
    }
    return;
  }
  for (int64_t i = threadIdx.x; i < a.width; i += embed_threads)
    store_float(a.y.dtype, y, to + i, known ? a.scale * load_float(a.table.dtype, table, from + i) : 0.0f);
}

int64_t scratch_embed(const Device &, const Node &) { return 0; }

void launch_embed(const Node &node, Launcher &launcher) {
  const Operand &ids = node.input[0], &table = node.input[1], &y = node.output[0];
  const EmbedArguments arguments{ids.place, table.place, y.place, table.rows(), y.width(), node.as<moe_embed>().scale};
  const int64_t bytes = dtype_bytes(table.dtype, y.elements()) + dtype_bytes(y.dtype, y.elements()) + 4 * y.rows();
  launcher.run({"embed", bytes, y.elements()}, embed_kernel, {dim3(blocks_for(y.rows(), 1)), embed_threads}, arguments);
}

}  // namespace moe::cuda
