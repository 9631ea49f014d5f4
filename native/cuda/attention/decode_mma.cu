// Attention of single tokens on tensor cores: the decode form where queries and caches are of one 16-bit float and three
// or more heads share their keys, which is more arithmetic than the other units do while the keys arrive.
//
// Layout: a block has one token, up to 16 heads of one group (the rows of one matrix product, the missing ones masked), and
// one part of the keys that the token sees. Its four warps take a quarter of each tile of keys; their softmaxes are put
// together in shared memory.
// Bound: bytes. Every visible key and value is read once for up to 16 heads. Share reached: not measured on a GPU yet.
#include "attention/forms.h"
#include "attention/mma_tile.h"
#include "attention/parts.h"

namespace moe::cuda {

template <typename Element, int depth>
using DecodeTile = MmaTile<Element, depth, 1, 64>;

template <int dtype, int depth>
__global__ void __launch_bounds__(mma_threads, depth > 8 ? 2 : 3)
    attention_decode_mma_kernel(const Frame *frame, AttentionArguments a) {
  using Element = ElementOf<dtype>;
  using Tile = DecodeTile<Element, depth>;
  constexpr int warps = mma_threads / 32, padded = 16 * depth;
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.q)) return;
  const int64_t sequence = ptx::load(at<int32_t>(frame, a.sequence) + token);
  if (taken_by_tiles(frame, a, token, sequence)) return;
  const PagedKeys paged(frame, a, sequence);
  const KeyPart part(a, paged.visible(a, ptx::load(at<int32_t>(frame, a.positions) + token)),
                     static_cast<int>(blockIdx.z));
  if (!part.exists()) return;
  const HeadsOfBlock heads(a, Tile::rows);

  SharedCutter cutter;
  const SharedArray<uint32_t> is_last = cutter.take<uint32_t>(1);
  const SharedArray<float2> states = cutter.take<float2>(warps * Tile::rows);
  Tile products(a, cutter);
  const int64_t first_row = token * a.heads + heads.first, own_keys = static_cast<int64_t>(heads.kv_head) * a.size;
  const Element *const q = at<Element>(frame, a.q) + first_row * a.size;
  products.load_queries([&](int row) { return row < heads.count ? q + static_cast<int64_t>(row) * a.size : nullptr; });
  products.run(paged, at<Element>(frame, a.k_cache) + own_keys, at<Element>(frame, a.v_cache) + own_keys, part.own(),
               part.own(), part.own());

  const SharedArray<float> sums = products.memory();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_of_thread() * Tile::rows + Tile::low_row() + 8 * half;
    if (Tile::column() == 0) states[row] = make_float2(products.natural_largest(half), products.weight(half));
#pragma unroll
    for (int n = 0; n < 2 * depth; ++n)
      ptx::store_shared(reinterpret_cast<float2 *>(&sums[row * padded + 8 * n + Tile::column()]),
                        make_float2(products.sum(n, 2 * half), products.sum(n, 2 * half + 1)));
  }
  __syncthreads();
  part.finish<mma_threads>(frame, a, first_row, heads.count, token * a.counters + blockIdx.y, is_last,
                           [&](int row, int d) {
                             return merge_rows(warps, [&](int w) {
                               const float2 state = states[w * Tile::rows + row];
                               return RowResult{state.x, state.y, sums[(w * Tile::rows + row) * padded + d]};
                             });
                           });
}

namespace {

template <int dtype, int depth>
void launch_depth(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  constexpr size_t shared = DecodeTile<ElementOf<dtype>, depth>::shared_bytes + 16 + sizeof(float2) * mma_threads / 2;
  launcher.run(decode_work("attention_decode_mma", a, sizes), attention_decode_mma_kernel<dtype, depth>,
               {decode_blocks(a, sizes), mma_threads, shared}, a);
}

template <int dtype>
void launch_dtype(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.size <= 64) return launch_depth<dtype, 4>(a, sizes, launcher);
  if (a.size <= 128) return launch_depth<dtype, 8>(a, sizes, launcher);
  launch_depth<dtype, 16>(a, sizes, launcher);
}

}  // namespace

void launch_attention_decode_mma(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.q.dtype == MOE_F16) return launch_dtype<MOE_F16>(a, sizes, launcher);
  launch_dtype<MOE_BF16>(a, sizes, launcher);
}

}  // namespace moe::cuda
