// The work of a linear, cut up. Bound: with few rows the bank's bytes, with many the multipliers; so a core keeps the
// rows of one segment while it goes from tile to tile, and each tile is read from memory once a segment.
// Layout: x [rows, in], y and residual [rows, out] in f32, dense; the bank as tile.h draws it; prepared rows, kernels.h.
//
//   pass      as many rows as the scratch holds prepared (1024 at most)
//   segment   up to 96 rows of one slot, cut into row blocks of the kernel's height
//   task      one segment × a range of its tiles
#include "linear/linear.h"

#include <algorithm>
#include <string>

#include "moe/checked.h"

namespace moe::cpu::linear {
namespace {

constexpr int64_t most_pass_rows = 1024, most_pass_bytes = int64_t{16} << 20;
constexpr int64_t task_products = 256 * 1024;  // multiply-adds worth a claim

struct Segment {
  int64_t first_task, tiles_per_task, tile_count;
  int32_t first_block, blocks;
};

struct Sizes {
  int64_t row_bytes;  // of a prepared row in the widest slot
  int64_t pass_rows;
  int64_t blocks_at, segments_at, prepared_at, threads_at, bytes;
};

Sizes sizes_of(const Bank &bank, bool int8, int64_t rows, int threads) {
  const int64_t padded = align_up(bank.in(), 8);
  const int64_t runs = ceil_divide(bank.in(), bank.group() ? bank.group() : channel_run);
  Sizes sizes{};
  sizes.row_bytes = std::max<int64_t>(64, align_up(int8 ? padded + 8 * runs : padded * 4));
  sizes.pass_rows =
      std::min(rows, std::clamp<int64_t>(most_pass_bytes / sizes.row_bytes, segment_rows, most_pass_rows));
  sizes.segments_at = align_up(sizes.pass_rows * static_cast<int64_t>(sizeof(RowBlock)));
  sizes.prepared_at = sizes.segments_at + align_up(sizes.pass_rows * static_cast<int64_t>(sizeof(Segment)));
  sizes.threads_at = sizes.prepared_at + sizes.pass_rows * sizes.row_bytes;
  sizes.bytes = sizes.threads_at + threads * thread_floats * 4;
  return sizes;
}

// Rows of slot s: [offsets[s], offsets[s + 1]), kept inside [0, rows] whatever the data say.
struct Rows {
  const int32_t *offsets;
  int64_t slots, rows;
  int64_t begin(int64_t slot) const { return offsets ? std::clamp<int64_t>(offsets[slot], 0, rows) : 0; }
  int64_t end(int64_t slot) const { return offsets ? std::clamp<int64_t>(offsets[slot + 1], begin(slot), rows) : rows; }
};

}  // namespace

bool uses_int8(const Bank &bank, const moe_linear &attributes) {
  return bank.integer() && attributes.mode != MOE_EXACT;
}

int64_t scratch(const Bank &bank, const Context &largest) {
  const auto &attributes = largest.attribute<moe_linear>();
  const Operand &x = largest.input[0], &token_of = largest.input[2], &offsets = largest.input[3],
                &residual = largest.input[4];
  const Operand &y = largest.output[0];
  const auto expect = [](bool good, moe_code code, std::string_view argument, const std::string &expected,
                         int64_t received) {
    if (!good) throw Error(code, argument, expected, std::to_string(received));
  };
  const int32_t activation = attributes.activation, mode = attributes.mode;
  expect(activation >= MOE_NONE && activation <= MOE_GEGLU, MOE_INVALID_ARGUMENT, "activation",
         "an activation from 0 to 6", activation);
  expect((activation >= MOE_SWIGLU) == bank.gated(), MOE_INVALID_ARGUMENT, "activation",
         bank.gated() ? "a gated one: the bank is gated" : "one that is not gated", activation);
  expect(mode >= MOE_EXACT && mode <= MOE_AUTO, MOE_INVALID_ARGUMENT, "mode", "exact (0), int8 (1) or auto (2)", mode);
  expect(mode != MOE_INT8 || bank.integer(), MOE_INVALID_ARGUMENT, "mode", "exact or auto: the bank is of floats",
         mode);
  const int64_t columns = bank.gated() ? bank.out() / 2 : bank.out();
  expect(x.width == bank.in(), MOE_SHAPE_MISMATCH, "x", "a width of " + std::to_string(bank.in()), x.width);
  if (!y) return 0;
  expect(y.width == columns, MOE_SHAPE_MISMATCH, "y", "a width of " + std::to_string(columns), y.width);
  if (offsets) {
    expect(offsets.dtype == MOE_I32, MOE_DTYPE_MISMATCH, "offsets", "i32", offsets.dtype);
    expect(offsets.size() == bank.slots() + 1, MOE_SHAPE_MISMATCH, "offsets", std::to_string(bank.slots() + 1),
           offsets.size());
    expect(!residual, MOE_INVALID_ARGUMENT, "residual", "none with offsets", 1);
  } else {
    expect(bank.slots() == 1, MOE_INVALID_ARGUMENT, "weight", "one slot where there are no offsets", bank.slots());
    expect(!token_of, MOE_INVALID_ARGUMENT, "tokenOf", "none without offsets", 1);
  }
  if (token_of) {
    expect(token_of.dtype == MOE_I32, MOE_DTYPE_MISMATCH, "tokenOf", "i32", token_of.dtype);
    expect(token_of.size() == y.rows, MOE_SHAPE_MISMATCH, "tokenOf", std::to_string(y.rows), token_of.size());
  } else {
    expect(x.rows == y.rows, MOE_SHAPE_MISMATCH, "y", std::to_string(x.rows) + " rows", y.rows);
  }
  if (residual)
    expect(residual.size() == y.size(), MOE_SHAPE_MISMATCH, "residual", std::to_string(y.size()), residual.size());
  return sizes_of(bank, uses_int8(bank, attributes), y.rows, largest.threads).bytes;
}

void run(const Kernels &kernels, const Bank &bank, const Context &context) {
  if (!context.output[0]) return;
  const Operand &x = context.input[0], &y = context.output[0];
  const auto &attributes = context.attribute<moe_linear>();
  Call call{};
  call.slots = &bank.slot(0);
  call.int8 = uses_int8(bank, attributes);
  call.activation = attributes.activation;
  call.x = x.as<float>();
  call.x_rows = x.rows;
  call.x_width = x.width;
  call.token_of = context.input[2] ? context.input[2].as<int32_t>() : nullptr;
  call.residual = context.input[4] ? context.input[4].as<float>() : nullptr;
  call.y = y.as<float>();
  call.y_width = y.width;
  const Sizes sizes = sizes_of(bank, call.int8, y.rows, context.threads);
  auto *const blocks = reinterpret_cast<RowBlock *>(context.scratch);
  auto *const segments = reinterpret_cast<Segment *>(context.scratch + sizes.segments_at);
  const int height = call.int8 ? kernels.rows_int8 : kernels.rows_exact;
  const Rows rows{context.input[3] ? context.input[3].as<int32_t>() : nullptr, bank.slots(), y.rows};
  const int64_t slot_count = rows.offsets ? bank.slots() : 1;

  int64_t slot = 0, row = rows.begin(0);
  while (slot < slot_count) {
    // 1. the row blocks and segments of this pass
    int64_t pass_rows = 0, block_count = 0, segment_count = 0, tiles = 0, products = 0, elements = 0;
    while (slot < slot_count && pass_rows < sizes.pass_rows) {
      const int64_t left = rows.end(slot) - row;
      if (left <= 0) {
        if (++slot < slot_count) row = rows.begin(slot);
        continue;
      }
      const int64_t parts = ceil_divide(left, segment_rows);
      const int64_t count = std::min(ceil_divide(left, parts), sizes.pass_rows - pass_rows);
      const Slot &of = bank.slot(slot);
      Segment &segment = segments[segment_count++];
      segment = {0, 0, of.tile_count, static_cast<int32_t>(block_count), 0};
      for (int64_t done = 0, cuts = ceil_divide(count, height); cuts > 0; --cuts) {
        const int64_t height_now = ceil_divide(count - done, cuts);
        blocks[block_count++] = {row + done, static_cast<int32_t>(height_now), static_cast<int32_t>(slot),
                                 context.scratch + sizes.prepared_at + (pass_rows + done) * sizes.row_bytes};
        ++segment.blocks;
        done += height_now;
      }
      pass_rows += count;
      row += count;
      tiles += of.tile_count;
      elements += count * of.in;
      products += count * of.in * of.tile_count * tile_outputs;
    }
    if (pass_rows == 0) break;

    // 2. rows of x, gathered and perhaps quantized
    context.parallel_for(block_count, elements * 4, [&](int64_t i, int) { kernels.prepare(call, blocks[i]); });

    // 3. segments × tile ranges
    const int64_t share = std::max<int64_t>(1, tiles / (4 * context.threads));
    int64_t tasks = 0;
    for (int64_t i = 0; i < segment_count; ++i) {
      Segment &segment = segments[i];
      const RowBlock &last = blocks[segment.first_block + segment.blocks - 1];
      const int64_t height_all = last.first + last.rows - blocks[segment.first_block].first;
      const int64_t per_tile = std::max<int64_t>(1, height_all * bank.slot(last.slot).in * tile_outputs);
      segment.tiles_per_task = std::clamp<int64_t>(task_products / per_tile, 1, share);
      segment.first_task = tasks;
      tasks += std::max<int64_t>(1, ceil_divide(segment.tile_count, segment.tiles_per_task));
    }
    context.parallel_for(tasks, products * 2, [&](int64_t task, int thread) {
      if (context.cancelled()) return;
      const Segment *const after =
          std::upper_bound(segments, segments + segment_count, task,
                           [](int64_t t, const Segment &segment) { return t < segment.first_task; });
      const Segment &segment = after[-1];
      const int64_t begin = (task - segment.first_task) * segment.tiles_per_task;
      const int64_t end = std::min(segment.tile_count, begin + segment.tiles_per_task);
      auto *const own = reinterpret_cast<float *>(context.scratch + sizes.threads_at) + thread * thread_floats;
      kernels.tiles(call, blocks + segment.first_block, segment.blocks, begin, end, own);
    });
    if (context.cancelled()) return;
  }
}

}  // namespace moe::cpu::linear
