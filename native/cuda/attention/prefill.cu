// Attention of many tokens a sequence where queries and caches are of one 16-bit float: tiles of 64 rows on tensor cores.
//
// Layout: rows are those of tile.h, products those of mma_tile.h. What a warp has computed goes through the place of its
// queries to whole 16-byte stores.
// Bound: operations, 4·D for each row and visible key, on tensor cores. Share reached: not measured on a GPU yet.
#include "attention/forms.h"
#include "attention/mma_tile.h"
#include "attention/tile.h"

namespace moe::cuda {

// 64 keys a tile, or 32 where D is above 128: what a thread's registers hold.
template <int depth>
inline constexpr int prefill_keys = depth > 8 ? 32 : 64;

template <int dtype, int depth>
__global__ void __launch_bounds__(mma_threads) attention_prefill_kernel(const Frame *frame, AttentionArguments a) {
  using Element = ElementOf<dtype>;
  using Tile = MmaTile<Element, depth, 4, prefill_keys<depth>>;
  const TileOfRows tile(frame, a);
  if (tile.tokens <= 0) return;
  SharedCutter cutter;
  Tile products(a, cutter);
  const Element *const q = at<Element>(frame, a.q);
  const int64_t own_keys = static_cast<int64_t>(tile.kv_head) * a.size;
  bool loaded = false;
  for (uint64_t left = tile.all_tokens(); left != 0;) {
    const TileSequence own(frame, a, tile, __ffsll(static_cast<long long>(left)) - 1);
    left &= ~own.own;
    if (!own.taken) continue;
    if (!loaded)
      products.load_queries([&](int row) -> const Element * {
        const int64_t element = tile.element_of(a, row);
        return element < 0 ? nullptr : q + element;
      });
    loaded = true;
    const KeyRange seen[2] = {own.seen_by(a, Tile::low_row()), own.seen_by(a, Tile::low_row() + 8)};
    products.run(own.paged, at<Element>(frame, a.k_cache) + own_keys, at<Element>(frame, a.v_cache) + own_keys, own.all,
                 seen[0], seen[1]);

    const SharedArray<Element> &staged = products.staged();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Tile::low_row() + 8 * half;
      if (!own.has_row(a, row)) continue;
      const bool sees = seen[half].begin < seen[half].end;
      const float factor = 1.0f / products.weight(half);
#pragma unroll
      for (int n = 0; n < 2 * depth; ++n)
        ptx::store_shared(
            reinterpret_cast<uint32_t *>(&staged[row * Tile::stride + 8 * n + Tile::column()]),
            sees ? pack(products.sum(n, 2 * half) * factor, products.sum(n, 2 * half + 1) * factor, Element{}) : 0u);
    }
    __syncwarp();
    for (int i = lane_of_thread(); i < 16 * 2 * depth; i += 32) {
      const int row = 16 * warp_of_thread() + i / (2 * depth), d = i % (2 * depth) * 8;
      const int64_t element = own.has_row(a, row) ? tile.element_of(a, row) : -1;
      if (element < 0 || d >= a.size) continue;
      ptx::store(reinterpret_cast<uint4 *>(at<Element>(frame, a.y) + element + d),
                 ptx::load_shared(reinterpret_cast<const uint4 *>(&staged[row * Tile::stride + d])));
    }
  }
}

namespace {

template <int dtype, int depth>
void launch_depth(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  launcher.run(
      tile_work("attention_prefill", a, sizes), attention_prefill_kernel<dtype, depth>,
      {tile_blocks(a, sizes), mma_threads, MmaTile<ElementOf<dtype>, depth, 4, prefill_keys<depth>>::shared_bytes}, a);
}

template <int dtype>
void launch_dtype(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.size <= 64) return launch_depth<dtype, 4>(a, sizes, launcher);
  if (a.size <= 128) return launch_depth<dtype, 8>(a, sizes, launcher);
  launch_depth<dtype, 16>(a, sizes, launcher);
}

}  // namespace

void launch_attention_prefill(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.q.dtype == MOE_F16) return launch_dtype<MOE_F16>(a, sizes, launcher);
  launch_dtype<MOE_BF16>(a, sizes, launcher);
}

}  // namespace moe::cuda
