// The rows of x as the tiles read them (kernels.h draws a prepared block): gathered through token_of and interleaved, and for int8
// quantized in runs of inputs: step = max|x| / 127, code = round-half-even(x / step), with the sum of the codes of each run.
// Bound: memory, one read of x and one write of the block.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

using linear::Call;
using linear::RowBlock;

MOE_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

MOE_INLINE const float *source(const Call &call, int64_t row) {  // null: reads as zeros
  const int64_t from = call.token_of ? call.token_of[row] : row;
  return from >= 0 && from < call.x_rows ? call.x + from * call.x_width : nullptr;
}

void gather(const float *x, int64_t in, int64_t padded, int rows, float *to) {
  if (!x) in = 0;
  for (int64_t k = 0; k < in; ++k) to[k * rows] = x[k];
  for (int64_t k = in; k < padded; ++k) to[k * rows] = 0.0f;
}

// max|x| / 127 over [begin, end); NaN where a value is not finite, so that the row's results are NaN.
float step_of(const float *x, int64_t begin, int64_t end) {
  Vec most = zero();
  bool bad = false;
  for (int64_t k = begin; k < end; k += width) {
    const Vec value = end - k >= width ? load(x + k) : load_part(x + k, end - k);
    most = max(abs(value), most);
    bad = bad || any(not_equal(value, value));
  }
  const float largest = maximum(most);
  return bad || largest > 3.4028234e38f ? __builtin_nanf("") : largest / 127.0f;
}

// Steps come from the whole row of x, also where the slot's own width is smaller.
void quantize(const Call &call, const float *x, const Slot &slot, int rows, int row, std::byte *prepared) {
  const int64_t run = slot.run(), runs = slot.runs();
  std::byte *const codes = prepared + row * 4;
  float *const steps = reinterpret_cast<float *>(prepared + slot.padded * rows);
  int32_t *const sums = reinterpret_cast<int32_t *>(steps + runs * rows);
  const float whole = x && !slot.group ? step_of(x, 0, call.x_width) : 0.0f;
  for (int64_t b = 0; b < runs; ++b) {
    const int64_t begin = b * run, end = least(slot.padded, begin + run), stop = least(slot.in, end);
    const float step = !x ? 0.0f : slot.group ? step_of(x, begin, least(call.x_width, begin + run)) : whole;
    const bool usable = step > 0.0f;
    const Vec divisor = broadcast(step);
    Ints total = zero_ints();
    for (int64_t k = begin; k < end; k += width) {
      alignas(64) int8_t piece[width];
      Ints code = zero_ints();
      if (usable && k < stop) {
        const Vec value = stop - k >= width ? load(x + k) : load_part(x + k, stop - k);
        code = to_ints(max(broadcast(-127.0f), min(broadcast(127.0f), div(value, divisor))));
      }
      total = add(total, code);
      store_bytes(piece, code);
      for (int64_t i = 0; i < width && k + i < end; i += 4) __builtin_memcpy(codes + (k + i) * rows, piece + i, 4);
    }
    steps[b * rows + row] = step;
    sums[b * rows + row] = sum(total);
  }
}

void prepare(const Call &call, const RowBlock &block) {
  const Slot &slot = call.slots[block.slot];
  for (int32_t r = 0; r < block.rows; ++r) {
    const float *const x = source(call, block.first + r);
    if (call.int8) {
      quantize(call, x, slot, block.rows, r, block.prepared);
    } else {
      gather(x, slot.in, slot.padded, block.rows, reinterpret_cast<float *>(block.prepared) + r);
    }
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
