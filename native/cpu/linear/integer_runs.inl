// The runs of a dense integer matrix against all blocks of a segment at once: `Product` leaves the int32 sums of a run in
// memory, [rows of all blocks][32], and here each is scaled and added as int8.inl does, to the bit.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Consecutive blocks of a segment, whose rows meet one tile. A `Product` is one of them with
//   void run(const std::byte *codes, int64_t begin, int64_t inputs, int32_t *dots)
// dots [rows][32] = Σ codes of w (as they are stored: + 8 or + 128) · codes of x over `inputs` inputs from `begin` on;
// `codes`: of w, from there on.
class SegmentProduct {
 public:
  SegmentProduct(const Matrix &matrix, int64_t form, const RowBlock *blocks, int32_t count)
      : matrix_(matrix), form_(form), blocks_(blocks), count_(count) {}

  // body(row of the sums, step, Σ codes of x) for each row, of run `index`.
  template <typename Body>
  MOE_INLINE void for_rows(int64_t index, const Body &body) const {
    int64_t row = 0;
    for (int32_t i = 0; i < count_; ++i) {
      const int32_t rows = blocks_[i].rows;
      const auto *const steps = reinterpret_cast<const float *>(blocks_[i].form(form_) + matrix_.padded * rows);
      const auto *const code_sums = reinterpret_cast<const int32_t *>(steps + matrix_.runs() * rows);
      for (int32_t r = 0; r < rows; ++r) body(row++, steps[index * rows + r], code_sums[index * rows + r]);
    }
  }

 protected:
  const Matrix &matrix_;
  int64_t form_;
  const RowBlock *blocks_;
  int32_t count_;
};

// sums [rows][32] += Σ over runs of step · (scale · Σ code_w·code_x − offset · Σ code_x)
template <bool offsets, typename Product>
void add_runs(const Matrix &matrix, const std::byte *tile, Product &product, float *sums) {
  alignas(64) int32_t dots[linear::segment_rows * tile_outputs];
  const GroupLayout layout(matrix);
  const int32_t above = matrix.store == MOE_I4 ? 8 : 128;  // what stored codes are above the true ones
  for (int64_t b = 0; b < matrix.runs(); ++b) {
    const int64_t group = matrix.group ? b : 0, begin = b * matrix.run();
    const std::byte *codes = layout.codes(tile, group);
    if (!matrix.group) codes += begin * tile_outputs / (matrix.store == MOE_I4 ? 2 : 1);
    product.run(codes, begin, least(matrix.run(), matrix.padded - begin), dots);
    Vec scale[vectors], offset[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) scale[v] = layout.scale(tile, group, v);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) offset[v] = offsets ? layout.offset(tile, group, v) : zero();
    product.for_rows(b, [&](int64_t row, float step, int32_t code_sum) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = row * tile_outputs + v * width;
        add_scaled<offsets>(sums + at, broadcast(step), scale[v], offset[v],
                            sub(load_ints(dots + at), broadcast_ints(above * code_sum)), code_sum);
      }
    });
  }
}

// The same under an outer scale, as dual_block.
template <typename Product>
void add_dual_runs(const Matrix &matrix, const std::byte *tile, Product &product, float *sums) {
  alignas(64) int32_t dots[linear::segment_rows * tile_outputs];
  alignas(64) int32_t totals[linear::segment_rows * tile_outputs];
  const GroupLayout layout(matrix);
  const int64_t runs = matrix.runs(), most = channel_run / matrix.group;
  for (int64_t b = 0; b < runs; ++b) {
    const int64_t begin = b * matrix.group;
    product.run(layout.codes(tile, b), begin, least(matrix.group, matrix.padded - begin), dots);
    const bool first = b % most == 0, last = b % most == most - 1 || b == runs - 1;
    product.for_rows(b, [&](int64_t row, float step, int32_t code_sum) {
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = row * tile_outputs + v * width;
        const Ints above = broadcast_ints(8 * code_sum);
        Ints total = mul(layout.inner(tile, b, v), sub(load_ints(dots + at), above));
        if (!first) total = add(load_ints(totals + at), total);
        __builtin_memcpy(totals + at, &total, sizeof total);
        if (last) {
          const Vec value = mul(layout.outer(tile, v), to_float(total));
          store(sums + at, fma(broadcast(step), value, load(sums + at)));
        }
      }
    });
  }
}

template <typename Product>
void add_integer_runs(const Matrix &matrix, const std::byte *tile, Product &product, float *sums) {
  if (matrix.outer >= 0) {
    add_dual_runs(matrix, tile, product, sums);
  } else if (matrix.offset >= 0) {
    add_runs<true>(matrix, tile, product, sums);
  } else {
    add_runs<false>(matrix, tile, product, sums);
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
