// A tile of a dense integer matrix against codes where an instruction multiplies 2 × 8 bytes by 8 × 2 (simd/neon.h), for
// segments of more than one row: int8.inl's sums to the bit, as the int32 sums of a run are exact in any order and
// integer_runs.inl scales them alike.
//
// Layout: two rows of the codes of x, [inputs / 8][rows][8] (kernels.h), are the signed operand; a last row alone has zeros
// beside it. Weights become the unsigned one, [inputs / 8][16][2 outputs][8], 512 inputs at a time, once for all rows of a
// segment: two vectors of 4 outputs × 4 inputs, the inputs of one behind those of the other (tile.h: two steps of bytes, or
// the low and the high bits of one of nibbles), zip into two operands. A product's sums are those of 2 outputs × 2 rows, and
// two of them come apart into 4 outputs of each row:
//
//     n0·r0  n0·r1  n1·r0  n1·r1     even lanes   n0·r0  n1·r0  n2·r0  n3·r0
//     n2·r0  n2·r1  n3·r0  n3·r1     odd lanes    n0·r1  n1·r1  n2·r1  n3·r1
//
// Registers: 16 of sums at most, of up to 4 pairs of rows; the compiler keeps a step's operands in the other 16.
//
// Bound, by Arm's optimization guide of the Neoverse V2: a product has the throughput and the latency of a dot product, 4 a
// cycle, and does twice its operations; 3 loads a cycle. 8 rows × 8 outputs × 8 inputs are 16 products, 4 cycles, and 8
// loads; 2 rows × 16 outputs 8 products, 2 cycles, and 9 loads, 3 cycles. 32 outputs × 8 inputs of weights take 16 zips in
// the products' units (nibbles: 24 more to split them): beside the 1152 products of 144 rows 1.4 %, which is all that packing
// them in this order would save, beside the 64 of 8 rows a quarter. In groups of 128 inputs a row has 128 products and 40
// vector instructions to scale their sums.
// Not measured on arm64 yet.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

constexpr int product_rows = 8;                     // of a block
constexpr int product_operands = tile_outputs / 2;  // of weights, 2 outputs each

// Packed steps to operands of weights: to [inputs / 8][16][2][8].
template <bool nibbles>
void make_operands(const std::byte *codes, int64_t inputs, std::byte *to) {
  constexpr int64_t bytes = nibbles ? 128 : 256;
  Ahead ahead{codes + prefetch_bytes, 128};
  for (int64_t k = 0; k < inputs; k += 8, codes += bytes) {
    ahead.step();
    if constexpr (!nibbles) ahead.step();
    Ints w[vectors], later[vectors];
    load_step<nibbles, 0>(codes, w);
    load_step<nibbles, nibbles ? 1 : 0>(codes + bytes - 128, later);
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v, to += 32) {
      const Ints low = zip_low(w[v], later[v]), high = zip_high(w[v], later[v]);
      __builtin_memcpy(to, &low, 16);
      __builtin_memcpy(to + 16, &high, 16);
    }
  }
}

// dots [R][32] of a run's first piece, else dots +=, Σ w · x over `inputs` inputs: operands of weights, codes of x.
template <int R>
[[gnu::noinline]] void multiply_rows(const std::byte *w, const std::byte *x, int64_t inputs, bool first,
                                     int32_t *dots) {
  constexpr int pairs = (R + 1) / 2, operands = pairs > 2 ? 4 : 8;
  const auto put = [&](int32_t *to, Ints sum) {
    if (!first) sum = add(load_ints(to), sum);
    __builtin_memcpy(to, &sum, sizeof sum);
  };
  for (int begin = 0; begin < product_operands; begin += operands, w += operands * 16, dots += operands * 2) {
    Ints sums[pairs][operands];
#pragma GCC unroll 16
    for (int p = 0; p < pairs; ++p)
#pragma GCC unroll 16
      for (int v = 0; v < operands; ++v) sums[p][v] = zero_ints();
    const std::byte *weights = w, *codes = x;
    for (int64_t k = 0; k < inputs; k += 8, weights += product_operands * 16, codes += R * 8) {
      Ints rows[pairs];
#pragma GCC unroll 16
      for (int p = 0; p < pairs; ++p) rows[p] = 2 * p + 1 < R ? load_ints(codes + p * 16) : load_half(codes + p * 16);
#pragma GCC unroll 16
      for (int v = 0; v < operands; ++v) {
        const Ints operand = load_ints(weights + v * 16);
#pragma GCC unroll 16
        for (int p = 0; p < pairs; ++p) sums[p][v] = matrix_product(sums[p][v], operand, rows[p]);
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < pairs; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < operands; v += 2) {
        int32_t *const to = dots + p * 2 * tile_outputs + v * 2;
        put(to, even_lanes(sums[p][v], sums[p][v + 1]));
        if (2 * p + 1 < R) put(to + tile_outputs, odd_lanes(sums[p][v], sums[p][v + 1]));
      }
    }
  }
}

class MatrixProduct : public SegmentProduct {
 public:
  MatrixProduct(const Matrix &matrix, int64_t form, const RowBlock *blocks, int32_t count, float *widened)
      : SegmentProduct(matrix, form, blocks, count), operands_(reinterpret_cast<std::byte *>(widened)) {}

  void run(const std::byte *codes, int64_t begin, int64_t inputs, int32_t *dots) {
    constexpr int64_t piece =
        linear::widened_inputs * 4;  // inputs whose weights, a byte each, fill the thread's scratch
    for (int64_t k = 0; k < inputs; k += piece) {
      const int64_t now = least(piece, inputs - k);
      if (matrix_.store == MOE_I4) {
        make_operands<true>(codes + k * tile_outputs / 2, now, operands_);
      } else {
        make_operands<false>(codes + k * tile_outputs, now, operands_);
      }
      int32_t *to = dots;
      for (int32_t i = 0; i < count_; ++i) {
        const int32_t rows = blocks_[i].rows;
        const std::byte *const x = blocks_[i].form(form_) + (begin + k) * rows;
        with_rows<product_rows>(rows, [&]<int R>() { multiply_rows<R>(operands_, x, now, k == 0, to); });
        to += rows * tile_outputs;
      }
    }
  }

 private:
  std::byte *operands_;
};

// A row alone has nothing to share a product with.
void integer_tile(const Matrix &matrix, int64_t index, int64_t form, const RowBlock *blocks, int32_t count,
                  float *widened, float *sums) {
  if (count == 1 && blocks->rows == 1) return int8_tile<1>(matrix, index, form, blocks, count, sums);
  MatrixProduct product(matrix, form, blocks, count, widened);
  add_integer_runs(matrix, matrix.tiles + index * matrix.tile_bytes, product, sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
