// The work of a linear, cut up. Bound: with few rows the bank's bytes, with many the multipliers; so a core keeps the
// rows of one segment while it goes from tile to tile, and each tile is read from memory once a segment.
// Layout: x [rows, in], y and residual [rows, out] in f32, dense; the bank as tile.h draws it; prepared rows, kernels.h.
//
//   pass      as many rows as the scratch holds prepared (1024 at most)
//   chunk     rows of one slot, up to a segment's, cut into row blocks of the kernel's height
//   segment   chunks of slots that share a base: up to 144 rows, or more where products are so fast that weights would not
//             arrive in time, as long as the rows stay in the second-level cache
//   task      one chunk × a range of its early tiles, or one segment × a range of its tiles
#include "linear/linear.h"

#include <algorithm>
#include <string>

#include "moe/checked.h"
#include "moe/part.h"

namespace moe::cpu::linear {
namespace {

constexpr int64_t most_pass_rows = 1024, most_pass_bytes = int64_t{16} << 20;
constexpr int64_t cached_result = int64_t{24} << 20;  // bytes of y
constexpr int64_t segment_bytes = int64_t{5} << 18;   // of rows, beyond segment_rows
constexpr int64_t task_products = 32 * 1024;          // multiply-adds worth a claim

// Blocks of a chunk or a segment, with their tiles.
struct Span {
  int64_t tiles, products;  // multiply-adds of a row and a tile
  int64_t rows;
  int64_t least_tiles;  // of a task
  int64_t first_task, tiles_per_task;
  int32_t first_block, blocks;
};

struct Sizes {
  Forms forms;
  int64_t row_bytes;  // of all forms of a row, in the widest slot
  int64_t pass_rows, segment_rows;
  int height;  // of a row block
  int64_t chunks_at, segments_at, prepared_at, threads_at, bytes;
};

// Bytes a row of the codes of a dense part, in the widest slot.
int64_t code_bytes(const Bank &bank, const moe_part &form) {
  return align_up(bank.in(), 8) + 8 * ceil_divide(bank.in(), form.group ? form.group : channel_run);
}

// The two quantize a row alike.
bool same_codes(const moe_part &a, const moe_part &b) { return a.group == b.group && a.outer < 0 && b.outer < 0; }

// Whether the inputs of an n:m part of bf16 are found among rounded ones: where there are tiles, of a step's.
bool rounded_sparse(const Kernels &kernels, const Bank &bank) {
  const Sparse &sparse = bank.slot(0).sparse;
  return kernels.sparse_tiles ? pair_window % sparse.m == 0 : sparse.reach <= pair_window;
}

Forms forms_of(const Kernels &kernels, const Bank &bank, bool int8, bool bf16, int64_t *row_bytes) {
  Forms forms;
  int64_t bytes = 0;
  const auto place = [&](int64_t more) {
    const int64_t at = bytes;
    bytes = checked_add(bytes, align_up(more), "in");
    return at;
  };
  const auto integer = [&](const moe_part *form) { return int8 && form && integer_store(form->store); };
  const moe_part *const base = bank.form(MOE_PART_BASE), *const kept = bank.form(MOE_PART_ROWS),
                        *const sparse = bank.form(MOE_PART_SPARSE);
  if (integer(base)) forms.base = place(code_bytes(bank, *base));
  if (integer(kept))
    forms.kept = integer(base) && same_codes(*base, *kept) ? forms.base : place(code_bytes(bank, *kept));
  // A window of look-ups that starts at any input can be read.
  forms.stride = align_up(checked_add(bank.in(), std::max(sparse ? sparse->m : 0, 64), "in"));
  const auto rounded = [&](const moe_part *form) { return bf16 && form->store == MOE_BF16; };
  const auto round = [&] {
    if (forms.rounded < 0) forms.rounded = place(forms.stride * 2);
  };
  for (const moe_part *form : {base, kept, bank.form(MOE_PART_FACTOR_IN)}) {
    if (!form || integer(form)) continue;
    if (rounded(form)) {
      round();
    } else if (forms.floats < 0) {
      forms.floats = place(align_up(bank.in(), 8) * 4);
    }
  }
  if (sparse) {
    const int64_t groups = sparse->group ? ceil_divide(bank.in(), sparse->group) : 1;
    if (integer(sparse)) {
      forms.sparse = place(forms.stride + 8 * groups);
    } else if (rounded(sparse) && rounded_sparse(kernels, bank)) {
      round();
    } else {
      forms.rows = place(forms.stride * 4);
    }
  }
  if (bank.early_tiles() > 0) forms.early = place((bank.early_tiles() * tile_outputs + kept_slack) * 4);
  *row_bytes = std::max<int64_t>(64, bytes);
  return forms;
}

// Whether all products of a call are of codes or of bf16, and dense or made as dense ones. (Of more inputs the sums of a
// sparse part's codes would have other runs than a dense one's.)
bool dense_products(const Kernels &kernels, const Bank &bank, bool bf16, const Forms &forms) {
  const moe_part *const expand = bank.form(MOE_PART_FACTOR_OUT);
  if (expand && !(bf16 && expand->store == MOE_BF16)) return false;
  if (bank.form(MOE_PART_SPARSE) && !(kernels.sparse_tiles && bank.in() <= channel_run)) return false;
  return forms.floats < 0 && forms.rows < 0;
}

Sizes sizes_of(const Kernels &kernels, const Bank &bank, bool int8, bool bf16, int64_t rows, int threads) {
  Sizes sizes{};
  sizes.forms = forms_of(kernels, bank, int8, bf16, &sizes.row_bytes);
  sizes.height = int8 ? kernels.rows_int8 : kernels.rows_exact;
  sizes.segment_rows = segment_rows;
  if (dense_products(kernels, bank, bf16, sizes.forms)) {
    sizes.height = kernels.rows_dense;
    const int64_t cached = segment_bytes / sizes.row_bytes / sizes.height * sizes.height;
    sizes.segment_rows = std::clamp<int64_t>(cached, segment_rows, kernels.segment_dense);
  }
  sizes.pass_rows =
      std::min(rows, std::clamp<int64_t>(most_pass_bytes / sizes.row_bytes, segment_rows, most_pass_rows));
  const int64_t spans = align_up(sizes.pass_rows * static_cast<int64_t>(sizeof(Span)));
  sizes.chunks_at = align_up(sizes.pass_rows * static_cast<int64_t>(sizeof(RowBlock)));
  sizes.segments_at = sizes.chunks_at + spans;
  sizes.prepared_at = sizes.segments_at + spans;
  sizes.threads_at = sizes.prepared_at + sizes.pass_rows * sizes.row_bytes;
  sizes.bytes = sizes.threads_at + threads * kernels.thread_floats * 4;
  return sizes;
}

// Whether this call rounds what meets bf16 matrices to bf16.
bool uses_bf16(const Kernels &kernels, const moe_linear &attributes) {
  return kernels.bf16 && attributes.mode == MOE_AUTO;
}

// Rows of slot s: [offsets[s], offsets[s + 1]), kept inside [0, rows] whatever the data say.
struct Rows {
  const int32_t *offsets;
  int64_t slots, rows;
  int64_t begin(int64_t slot) const { return offsets ? std::clamp<int64_t>(offsets[slot], 0, rows) : 0; }
  int64_t end(int64_t slot) const { return offsets ? std::clamp<int64_t>(offsets[slot + 1], begin(slot), rows) : rows; }
};

// A pass in the making: its blocks, chunks and segments.
struct Pass {
  RowBlock *blocks;
  Span *chunks, *segments;
  int32_t block_count = 0, chunk_count = 0, segment_count = 0;
  int64_t rows = 0, elements = 0;

  // The next `count` rows of a slot, from row `first` of y on.
  void add(const Bank &bank, int64_t slot_index, int64_t first, int64_t count, const Sizes &sizes,
           std::byte *prepared) {
    const Slot &slot = bank.slot(slot_index);
    Span &chunk = chunks[chunk_count++];
    chunk = {slot.early_tiles(), slot.in * tile_outputs, count, 1, 0, 0, block_count, 0};
    for (int64_t done = 0, cuts = ceil_divide(count, sizes.height); cuts > 0; --cuts) {
      const int64_t height_now = ceil_divide(count - done, cuts);
      blocks[block_count++] = {first + done, static_cast<int32_t>(height_now), static_cast<int32_t>(slot_index),
                               prepared + (rows + done) * sizes.row_bytes};
      ++chunk.blocks;
      done += height_now;
    }
    rows += count;
    elements += count * slot.in;
    Span *const last = segment_count > 0 ? &segments[segment_count - 1] : nullptr;
    const Matrix *const before = last ? &bank.slot(blocks[last->first_block].slot).base : nullptr;
    const bool shared = before && *before && slot.base && before->tiles == slot.base.tiles;
    if (shared && last->rows + count <= sizes.segment_rows) {
      last->blocks += chunk.blocks;
      last->rows += count;
      return;
    }
    const int64_t least_tiles = slot.only_added() ? slot.added_run() : 1;
    segments[segment_count++] = {slot.tile_count,   slot.products(), count, least_tiles, 0, 0,
                                 chunk.first_block, chunk.blocks};
  }
};

// Runs a kernel over spans × tile ranges.
void run_spans(const Call &call, const Context &context, const Pass &pass, Span *spans, int32_t count,
               decltype(Kernels::tiles) kernel, float *thread_scratch, int64_t thread_floats, int64_t least_tasks) {
  int64_t tiles = 0, products = 0, tasks = 0;
  for (int32_t i = 0; i < count; ++i) {
    tiles += spans[i].tiles;
    products += spans[i].tiles * spans[i].products * spans[i].rows;
  }
  const int64_t share = std::max<int64_t>(1, tiles / (4 * context.threads));
  for (int32_t i = 0; i < count; ++i) {
    Span &span = spans[i];
    span.tiles_per_task = std::clamp<int64_t>(task_products / std::max<int64_t>(1, span.products * span.rows),
                                              std::min(span.least_tiles, share), share);
    span.first_task = tasks;
    tasks += std::max(least_tasks, ceil_divide(span.tiles, span.tiles_per_task));
  }
  if (tasks == 0) return;
  context.parallel_for(tasks, products * 2, [&](int64_t task, int thread) {
    if (context.cancelled()) return;
    const Span *const after =
        std::upper_bound(spans, spans + count, task, [](int64_t t, const Span &span) { return t < span.first_task; });
    const Span &span = after[-1];
    const int64_t begin = (task - span.first_task) * span.tiles_per_task;
    kernel(call, pass.blocks + span.first_block, span.blocks, begin, std::min(span.tiles, begin + span.tiles_per_task),
           thread_scratch + thread * thread_floats);
  });
}

}  // namespace

bool uses_int8(const Bank &bank, const moe_linear &attributes) {
  return bank.integer() && attributes.mode != MOE_EXACT;
}

int64_t scratch(const Kernels &kernels, const Bank &bank, const Context &largest) {
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
  return sizes_of(kernels, bank, uses_int8(bank, attributes), uses_bf16(kernels, attributes), y.rows, largest.threads)
      .bytes;
}

void run(const Kernels &kernels, const Bank &bank, const Context &context) {
  if (!context.output[0]) return;
  const Operand &x = context.input[0], &y = context.output[0];
  const auto &attributes = context.attribute<moe_linear>();
  Call call{};
  call.slots = &bank.slot(0);
  call.int8 = uses_int8(bank, attributes);
  call.bf16 = uses_bf16(kernels, attributes);
  call.activation = attributes.activation;
  call.x = x.as<float>();
  call.x_rows = x.rows;
  call.x_width = x.width;
  call.token_of = context.input[2] ? context.input[2].as<int32_t>() : nullptr;
  call.residual = context.input[4] ? context.input[4].as<float>() : nullptr;
  call.y = y.as<float>();
  call.y_width = y.width;
  call.past_caches = y.size() * 4 > cached_result;
  const Sizes sizes = sizes_of(kernels, bank, call.int8, call.bf16, y.rows, context.threads);
  call.forms = sizes.forms;
  std::byte *const scratch = context.scratch;
  auto *const thread_scratch = reinterpret_cast<float *>(scratch + sizes.threads_at);
  const Rows rows{context.input[3] ? context.input[3].as<int32_t>() : nullptr, bank.slots(), y.rows};
  const int64_t slot_count = rows.offsets ? bank.slots() : 1;

  int64_t place = 0, row = rows.begin(bank.in_order(0));
  while (place < slot_count) {
    Pass pass{reinterpret_cast<RowBlock *>(scratch), reinterpret_cast<Span *>(scratch + sizes.chunks_at),
              reinterpret_cast<Span *>(scratch + sizes.segments_at)};
    while (place < slot_count && pass.rows < sizes.pass_rows) {
      const int64_t slot = bank.in_order(place), left = rows.end(slot) - row;
      if (left <= 0) {
        if (++place < slot_count) row = rows.begin(bank.in_order(place));
        continue;
      }
      const int64_t count =
          std::min(ceil_divide(left, ceil_divide(left, sizes.segment_rows)), sizes.pass_rows - pass.rows);
      pass.add(bank, slot, row, count, sizes, scratch + sizes.prepared_at);
      row += count;
    }
    if (pass.rows == 0) break;
    context.parallel_for(pass.block_count, pass.elements * 4,
                         [&](int64_t i, int) { kernels.prepare(call, pass.blocks[i]); });
    run_spans(call, context, pass, pass.chunks, pass.chunk_count, kernels.early, thread_scratch, kernels.thread_floats,
              0);
    run_spans(call, context, pass, pass.segments, pass.segment_count, kernels.tiles, thread_scratch,
              kernels.thread_floats, 1);
    if (context.cancelled()) return;
  }
}

}  // namespace moe::cpu::linear
