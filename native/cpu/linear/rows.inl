// The rows of x as the parts read them (kernels.h draws the forms of a prepared block): gathered through token_of, and for
// int8 quantized in runs of inputs: step = max|x| / 127, code = round-half-even(x / step), with the sum of the codes of
// each run.
// Bound: memory, one read of x and one write of each form.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

using linear::Call;
using linear::RowBlock;

#if defined(MOE_TILES)
constexpr bool tiled = true;
#else
constexpr bool tiled = false;
#endif

MOE_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Inputs that are asked for before they are read: rows are short for what notices a stream by itself.
constexpr int64_t row_ahead = 1024;

MOE_INLINE const float *source(const Call &call, int64_t row) {  // null: reads as zeros
  const int64_t from = call.token_of ? call.token_of[row] : row;
  return from >= 0 && from < call.x_rows ? call.x + from * call.x_width : nullptr;
}

void gather_row(const float *x, int64_t in, int64_t padded, int rows, float *to) {
  if (!x) in = 0;
  for (int64_t k = 0; k < in; ++k) to[k * rows] = x[k];
  for (int64_t k = in; k < padded; ++k) to[k * rows] = 0.0f;
}

// Inputs of a row, rounded to bf16, that lie together: a step of tiles, else all.
constexpr int64_t rounded_step = 32;
// Of `rows` rows of `padded` inputs: the elements from row to row, and from step to step.
MOE_INLINE int64_t rounded_row(int64_t padded) { return tiled ? rounded_step : padded; }
MOE_INLINE int64_t rounded_stride(int64_t rows) { return tiled ? rows * rounded_step : rounded_step; }

// The same rounded to bf16, `stride` elements from step to step; padded: a multiple of a step.
void round_row(const float *x, int64_t in, int64_t padded, int64_t stride, uint16_t *to) {
  if (!x) in = 0;
  for (int64_t k = 0; k < padded; k += width) {
    if (k < in) linear::prefetch(x + k + row_ahead);
    const Vec value = k >= in ? zero() : in - k >= width ? load(x + k) : load_part(x + k, in - k);
    store_bf16(to + k / rounded_step * stride + k % rounded_step, value);
  }
}

// Whether all inputs are finite as bf16 too.
bool rounds_to_finite(const float *x, int64_t in) {
  const Vec most = broadcast(0x1.fefffep127f);
  for (int64_t k = 0; k < in; k += width) {
    const Vec value = abs(in - k >= width ? load(x + k) : load_part(x + k, in - k));
    if (any(greater(value, most)) || any(not_equal(value, value))) return false;
  }
  return true;
}

// max|x| / 127 over [begin, end); NaN where a value is not finite, so that the row's results are NaN.
float step_of(const float *x, int64_t begin, int64_t end) {
  Vec most = zero();
  bool bad = false;
  for (int64_t k = begin; k < end; k += width) {
    linear::prefetch(x + k + row_ahead);
    const Vec value = end - k >= width ? load(x + k) : load_part(x + k, end - k);
    most = max(abs(value), most);
    bad = bad || any(not_equal(value, value));
  }
  const float largest = maximum(most);
  return bad || largest > 3.4028234e38f ? __builtin_nanf("") : largest / 127.0f;
}

// The codes of `width` inputs from k on; those from `stop` on are 0. divisor: the step, above 0.
MOE_INLINE Ints codes_of(const float *x, int64_t k, int64_t stop, Vec divisor) {
  const Vec value = stop - k >= width ? load(x + k) : load_part(x + k, stop - k);
  return to_ints(max(broadcast(-127.0f), min(broadcast(127.0f), div(value, divisor))));
}

// Runs of `run` inputs; their steps come from the whole row where `whole`, also where the slot's own width is smaller.
struct Runs {
  const float *x;  // null: zeros
  int64_t in, x_width, run, count;
  bool whole;
  float whole_step;
  MOE_INLINE Runs(const float *row, int64_t slot_in, int64_t row_width, int64_t length, bool one_step)
      : x(row), in(slot_in), x_width(row_width), run(length), count((slot_in + length - 1) / length), whole(one_step) {
    whole_step = x && whole ? step_of(x, 0, x_width) : 0.0f;
  }
  MOE_INLINE float step(int64_t index) const {
    if (!x || whole) return whole_step;
    return step_of(x, index * run, least(x_width, (index + 1) * run));
  }
};

// Inputs of a row that lie together in the codes of a block: the four of a dot product's lane, the eight of a matrix product,
// or a row of a tile. A row alone has one order for all of them.
MOE_INLINE int64_t code_depth([[maybe_unused]] const Matrix &matrix, [[maybe_unused]] int rows) {
#if defined(MOE_TILES)
  if (rows >= linear::least_tile_rows) return linear::depth_of_tiles(matrix, tile_depth);
#endif
#if defined(MOE_MATRIX_PRODUCTS)
  return 8;
#else
  return 4;
#endif
}

void quantize(const Runs &runs, const Matrix &matrix, int rows, int row, std::byte *form) {
  const int64_t padded = matrix.padded, depth = rows == 1 ? padded : code_depth(matrix, rows);
  float *const steps = reinterpret_cast<float *>(form + padded * rows);
  int32_t *const sums = reinterpret_cast<int32_t *>(steps + runs.count * rows);
  for (int64_t b = 0; b < runs.count; ++b) {
    const int64_t begin = b * runs.run, end = least(padded, begin + runs.run), stop = least(runs.in, end);
    const float step = runs.step(b);
    std::byte *to = form + begin / depth * depth * rows + row * depth;
    int64_t within = begin % depth;
    Ints total = zero_ints();
    for (int64_t k = begin; k < end; k += width) {
      alignas(64) int8_t piece[width];
      const Ints code = step > 0.0f && k < stop ? codes_of(runs.x, k, stop, broadcast(step)) : zero_ints();
      total = add(total, code);
      if (within == depth) within = 0, to += depth * rows;
      if (within + width <= depth && end - k >= width) {
        store_bytes(reinterpret_cast<int8_t *>(to + within), code);
        within += width;
        continue;
      }
      store_bytes(piece, code);
      for (int64_t i = 0; i < width && k + i < end; i += 4, within += 4) {
        if (within == depth) within = 0, to += depth * rows;
        __builtin_memcpy(to + within, piece + i, 4);
      }
    }
    steps[b * rows + row] = step;
    sums[b * rows + row] = sum(total);
  }
}

// In order, as unsigned bytes: code + 128. `stride` bytes are written: zeros behind the inputs.
void quantize_in_order(const Runs &runs, int64_t stride, int rows, int row, std::byte *form) {
  std::byte *const codes = form + row * stride;
  float *const steps = reinterpret_cast<float *>(form + stride * rows);
  for (int64_t b = 0; b < runs.count; ++b) {
    const int64_t begin = b * runs.run, stop = least(runs.in, begin + runs.run);
    const float step = runs.step(b);
    for (int64_t k = begin; k < stop; k += width) {
      alignas(64) int8_t piece[width];
      store_bytes(piece, step > 0.0f ? codes_of(runs.x, k, stop, broadcast(step)) : zero_ints());
      for (int i = 0; i < width; i += 4) {  // what lies past the inputs is written below
        uint32_t four;
        __builtin_memcpy(&four, piece + i, 4);
        four ^= 0x80808080u;
        __builtin_memcpy(codes + k + i, &four, 4);
      }
    }
    steps[b * rows + row] = step;
  }
  for (int64_t k = runs.in; k < stride; ++k) codes[k] = std::byte{0x80};
}

// The step of a dense integer matrix is the whole row's where one scale is, inner ones or not.
MOE_INLINE Runs runs_of(const Call &call, const float *x, const Matrix &matrix) {
  return {x, matrix.in, call.x_width, matrix.run(), matrix.group == 0 || matrix.outer >= 0};
}

// What meets codes of an n:m part.
void quantize_sparse(const Call &call, const float *x, const Slot &slot, const RowBlock &block, int32_t row) {
  const Matrix matrix = slot.sparse.dense();
  std::byte *const form = block.form(call.forms.sparse);
  if (tiled && block.rows >= linear::least_tile_rows)
    return quantize(runs_of(call, x, matrix), matrix, block.rows, row, form);
  const int64_t run = matrix.group ? matrix.group : call.x_width;
  quantize_in_order({x, slot.in, call.x_width, run, matrix.group == 0}, call.forms.stride, block.rows, row, form);
}

void prepare(const Call &call, const RowBlock &block) {
  const Slot &slot = call.slots[block.slot];
  const linear::Forms &forms = call.forms;
  uint32_t not_finite = 0;
  for (int32_t r = 0; r < block.rows; ++r) {
    const float *const x = source(call, block.first + r);
    if (forms.floats >= 0) {
      float *const to = reinterpret_cast<float *>(block.form(forms.floats)) + r;
      gather_row(x, slot.in, (slot.in + 7) / 8 * 8, block.rows, to);
    }
    if (forms.rounded >= 0) {
      auto *const to = reinterpret_cast<uint16_t *>(block.form(forms.rounded)) + r * rounded_row(forms.stride);
      round_row(x, slot.in, forms.stride, rounded_stride(block.rows), to);
      if (tiled && slot.sparse.values && x && !rounds_to_finite(x, slot.in)) not_finite |= 1u << r;
    }
    if (forms.rows >= 0) {
      gather_row(x, slot.in, forms.stride, 1, reinterpret_cast<float *>(block.form(forms.rows)) + r * forms.stride);
    }
    if (forms.base >= 0) {
      quantize(runs_of(call, x, slot.base), slot.base, block.rows, r, block.form(forms.base));
    }
    if (forms.kept >= 0 && forms.kept != forms.base && slot.kept) {
      quantize(runs_of(call, x, slot.kept), slot.kept, block.rows, r, block.form(forms.kept));
    }
    if (forms.sparse >= 0) quantize_sparse(call, x, slot, block, r);
  }
  if (tiled && forms.rounded >= 0) linear::not_finite(forms, block) = not_finite;
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
