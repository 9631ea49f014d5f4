// y = activation(kept rows·x + Base·x + B·(A·x) + S·x + bias) + residual for tiles of a few rows. Layouts: tile.h,
// kernels.h. A tile's sums are added part by part in that order; neither it nor the order within a part depends on how
// many rows or threads there are, so a row's result is bitwise its own.
//
// Bound: few rows read every weight byte once (memory); many rows do 2 · rows · in · 32 operations a tile
// (multipliers).
// Reached: `node-moe bench dense --rounds 9`, 4096 → 14336, two Zen 5 cores with AVX-512, 2026-11-28, medians of whole calls:
// 1 row 63 (int4) to 89 % (f32) of a read limit of 55 GB/s, int4 in groups of 128 78 %; 512 rows 54 (int4 with offsets) to
// 83 % (int8) of the peak, int4 in groups of 128 78 %. Two Zen 4 cores, 2026-11-29: 1 row of int4 in groups of 128 85 %, of int8
// 90 %; 512 rows 84 and 90 %. Two Emerald Rapids cores beside other tenants, 2026-11-30: 1 row of f32 85, int8 81, int4 in
// groups of 128 68 %; 512 rows 54 to 65 %. The same with AMX: 512 rows of int8 37 %, dual-grained 34 %, int4 in groups of 128 21 % of
// the tiles' peak (docs/performance.md).
#include "linear/kernels.h"
#include "linear/rows.inl"
#include "linear/widen.inl"
// Its own order: each part builds on those above.
#include "linear/exact.inl"
#include "linear/int8.inl"
// Rows in pairs, which it reads as int8 does.
#include "linear/bf16.inl"
#if defined(MOE_TILES)
#include "linear/amx_tiles.inl"
// Over them.
#include "linear/amx.inl"
#endif
#if defined(MOE_MATRIX_PRODUCTS)
#include "linear/integer_runs.inl"
// Over it.
#include "linear/matrix_products.inl"
#endif
#include "linear/sparse_places.inl"
#if defined(MOE_TILES)
#include "linear/amx_bf16_few.inl"
// Over it.
#include "linear/amx_bf16.inl"
#endif
// The ways to multiply by them.
#include "linear/sparse_bf16.inl"
#include "linear/sparse_exact.inl"
#include "linear/sparse_int8.inl"
#if defined(MOE_TILES)
#include "linear/amx_sparse.inl"
#endif
// The choice.
#include "linear/sparse.inl"
// What the slots add.
#include "linear/low_rank.inl"
// And the end of a tile.
#include "linear/epilogue.inl"
#include "linear/kept_rows.inl"

namespace moe::cpu::MOE_ISA {
namespace {

#if defined(MOE_TILES)
constexpr int dense_rows = block_rows, dense_segment = tile_segment_rows;
constexpr int64_t widened_floats = tile_piece_bytes / 4 + tile_segment_rows * tile_outputs;  // and int32 sums (amx.inl)
#else
#if defined(MOE_MATRIX_PRODUCTS)
constexpr int dense_rows = product_rows;
#else
constexpr int dense_rows = int8_rows;
#endif
constexpr int dense_segment = linear::segment_rows;
constexpr int64_t widened_floats = linear::widened_inputs * tile_outputs;
#endif

void early(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end, float *thread_scratch) {
  const Slot &slot = call.slots[blocks[0].slot];
  float *const widened = thread_scratch, *const sums = thread_scratch + widened_floats;
  const int64_t rows = rows_of(blocks, count), shrinking = slot.shrink.tile_count;
  for (int64_t index = begin; index < end; ++index) {
    clear(sums, rows);
    const bool shrink = index < shrinking;
    dense_tile(call, shrink ? slot.shrink : slot.kept, shrink ? index : index - shrinking, call.forms.kept, blocks,
               count, widened, sums);
    store_early(call, blocks, count, index, sums);
  }
}

// Tiles of a slot that has no more than factors and kept rows: few products, so most of what moves is y, and a block's rows
// of it are written one line after the other.
void added_tiles(const Call &call, const Slot &slot, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end,
                 float *widened, float *sums) {
  KeptLanes lanes[most_added_run];
  const int64_t run = slot.added_run();
  const bool few = rows_of(blocks, count) <= few_rows;
  for (int64_t first = begin; first < end; first += run) {
    const int64_t stop = least(end, first + run);
    for (int64_t index = first; index < stop && !few; ++index) lanes[index - first] = kept_lanes(slot, index);
    for (int32_t i = 0; i < count; ++i) {
      for (int64_t index = first; index < stop; ++index) {
        if (few) {
          start_few(call, slot, index, blocks + i, 1, sums);
        } else {
          start_sums(call, slot, lanes[index - first], blocks + i, 1, sums);
        }
        if (slot.expand) expand_tile(call, slot, index, blocks + i, 1, widened, sums);
        finish(call, slot, index, blocks + i, 1, sums);
      }
    }
  }
}

// body(slot, its blocks, their count, their sums) for each slot of a segment.
template <typename Body>
MOE_INLINE void for_slots(const Call &call, const RowBlock *blocks, int32_t count, float *sums, const Body &body) {
  for (int32_t i = 0, own; i < count; i += own) {
    own = 1;
    while (i + own < count && blocks[i + own].slot == blocks[i].slot) ++own;
    body(call.slots[blocks[i].slot], blocks + i, own, sums);
    sums += rows_of(blocks + i, own) * tile_outputs;
  }
}

void tiles(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end, float *thread_scratch) {
  const Slot &first = call.slots[blocks[0].slot];
  float *const widened = thread_scratch, *const sums = thread_scratch + widened_floats;
  if (first.only_added()) {
    added_tiles(call, first, blocks, count, begin, end, widened, sums);
  } else {
    for (int64_t index = begin; index < end; ++index) {
      for_slots(call, blocks, count, sums, [&](const Slot &slot, const RowBlock *own, int32_t owned, float *own_sums) {
        start_tile(call, slot, index, own, owned, own_sums);
      });
      if (first.base) dense_tile(call, first.base, index, call.forms.base, blocks, count, widened, sums);
      for_slots(call, blocks, count, sums, [&](const Slot &slot, const RowBlock *own, int32_t owned, float *own_sums) {
        if (slot.expand) expand_tile(call, slot, index, own, owned, widened, own_sums);
        if (slot.sparse.values) sparse_tile(call, slot.sparse, index, own, owned, widened, own_sums);
        finish(call, slot, index, own, owned, own_sums);
      });
    }
  }
  if (call.past_caches) fence_past_caches();
  if (end == first.tile_count && first.columns() < call.y_width) {
    for (int32_t i = 0; i < count; ++i) clear_columns(call, blocks[i], first.columns());
  }
}

constexpr linear::Kernels kernels_with(bool bf16) {
  return {exact_rows, int8_rows, dense_rows, dense_segment, widened_floats + dense_segment * tile_outputs,
          bf16,       tiled,     prepare,    early,         tiles};
}

}  // namespace

const linear::Kernels linear_kernels = kernels_with(bf16_products);

}  // namespace moe::cpu::MOE_ISA
