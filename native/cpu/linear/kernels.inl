// y = activation(Base·x + B·(A·x) + S·x + kept rows·x + bias) + residual for tiles of a few rows. Layouts: tile.h,
// kernels.h. A tile's sums are added part by part in that order; neither it nor the order within a part depends on how
// many rows or threads there are, so a row's result is bitwise its own.
//
// Bound: few rows read every weight byte once (memory); many rows do 2 · rows · in · 32 operations a tile
// (multipliers).
// Reached: `node-moe bench dense --rounds 9`, 4096 → 14336, two Zen 5 cores with AVX-512, 2026-11-28, medians of whole calls:
// 1 row 63 (int4) to 89 % (f32) of a read limit of 55 GB/s, int4 in groups of 128 78 %; 512 rows 54 (int4 with offsets) to
// 83 % (int8) of the peak, int4 in groups of 128 78 % (docs/performance.md).
#include "linear/kernels.h"
#include "linear/rows.inl"
#include "linear/widen.inl"
// Its own order: each part builds on those above.
#include "linear/exact.inl"
#include "linear/int8.inl"
// Rows in pairs, which it reads as int8 does.
#include "linear/bf16.inl"
#if defined(MOE_TILES) || defined(MOE_MATRIX_PRODUCTS)
#include "linear/integer_runs.inl"
#endif
#if defined(MOE_TILES)
#include "linear/amx_tiles.inl"
// Over them.
#include "linear/amx.inl"
#include "linear/amx_bf16.inl"
#endif
#if defined(MOE_MATRIX_PRODUCTS)
#include "linear/matrix_products.inl"
#endif
#include "linear/sparse_places.inl"
// The ways to multiply by them.
#include "linear/sparse_bf16.inl"
#include "linear/sparse_exact.inl"
#include "linear/sparse_int8.inl"
// The choice.
#include "linear/sparse.inl"
// What the slots add.
#include "linear/low_rank.inl"
// And the end of a tile.
#include "linear/epilogue.inl"
#include "linear/kept_rows.inl"

namespace moe::cpu::MOE_ISA {
namespace {

int64_t rows_of(const RowBlock *blocks, int32_t count) {
  int64_t rows = 0;
  for (int32_t i = 0; i < count; ++i) rows += blocks[i].rows;
  return rows;
}

void clear(float *sums, int64_t rows) {
  for (int64_t i = 0; i < rows * tile_outputs; i += width) store(sums + i, zero());
}

void early(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end, float *thread_scratch) {
  const Slot &slot = call.slots[blocks[0].slot];
  float *const widened = thread_scratch, *const sums = thread_scratch + linear::widened_inputs * tile_outputs;
  const int64_t rows = rows_of(blocks, count), shrinking = slot.shrink.tile_count;
  for (int64_t index = begin; index < end; ++index) {
    clear(sums, rows);
    const bool shrink = index < shrinking;
    dense_tile(call, shrink ? slot.shrink : slot.kept, shrink ? index : index - shrinking, call.forms.kept, blocks,
               count, widened, sums);
    store_early(call, blocks, count, index, sums);
  }
}

void tiles(const Call &call, const RowBlock *blocks, int32_t count, int64_t begin, int64_t end, float *thread_scratch) {
  const Slot &first = call.slots[blocks[0].slot];
  float *const widened = thread_scratch, *const sums = thread_scratch + linear::widened_inputs * tile_outputs;
  const int64_t rows = rows_of(blocks, count);
  for (int64_t index = begin; index < end; ++index) {
    clear(sums, rows);
    if (first.base) dense_tile(call, first.base, index, call.forms.base, blocks, count, widened, sums);
    float *own_sums = sums;
    for (int32_t i = 0, own; i < count; i += own) {  // the blocks of one slot
      const Slot &slot = call.slots[blocks[i].slot];
      own = 1;
      while (i + own < count && blocks[i + own].slot == blocks[i].slot) ++own;
      if (slot.expand) expand_tile(call, slot, index, blocks + i, own, widened, own_sums);
      if (slot.sparse.values) sparse_tile(call, slot.sparse, index, blocks + i, own, widened, own_sums);
      if (slot.kept_count > 0) add_kept_rows(call, slot, index, blocks + i, own, own_sums);
      finish(call, slot, index, blocks + i, own, own_sums);
      own_sums += rows_of(blocks + i, own) * tile_outputs;
    }
  }
  if (end == first.tile_count && first.columns() < call.y_width) {
    for (int32_t i = 0; i < count; ++i) clear_columns(call, blocks[i], first.columns());
  }
}

}  // namespace

#if defined(MOE_TILES)
constexpr int dense_rows = tile_rows;
#elif defined(MOE_MATRIX_PRODUCTS)
constexpr int dense_rows = product_rows;
#else
constexpr int dense_rows = int8_rows;
#endif
const linear::Kernels linear_kernels{exact_rows, int8_rows, dense_rows, bf16_products, prepare, early, tiles};

}  // namespace moe::cpu::MOE_ISA
