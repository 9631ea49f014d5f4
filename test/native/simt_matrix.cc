// Fragments of matrix instructions, against plain loops over the layouts of the PTX manual: a lane is 4·g + q.
#include <ptx.h>

#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "kernel/shared.h"
#include "moe/half.h"
#include "simt_launch.h"

namespace moe::test {
namespace {

using cuda::SharedArray;
using cuda::SharedCutter;
namespace ptx = cuda::ptx;

template <bool transposed>
void load_matrices(const uint16_t *from, uint32_t *words) {
  SharedCutter cutter;
  const SharedArray<uint16_t> tile = cutter.take<uint16_t>(32 * 8);
  for (int i = static_cast<int>(threadIdx.x); i < 32 * 8; i += 32) tile[i] = from[i];
  __syncwarp();
  uint32_t r[4];
  if constexpr (transposed) {
    ptx::ldmatrix_x4_transposed(r, &tile[8 * static_cast<int>(threadIdx.x)]);
  } else {
    ptx::ldmatrix_x4(r, &tile[8 * static_cast<int>(threadIdx.x)]);
  }
  for (unsigned m = 0; m < 4; ++m) words[4 * threadIdx.x + m] = r[m];
}

TEST_CASE("simt: ldmatrix gives each lane two neighbours of its row, or of its column where transposed") {
  std::vector<uint16_t> from(32 * 8);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint16_t>(i);
  std::vector<uint32_t> rows(128), columns(128);
  CHECK(launch(load_matrices<false>, {1, 32, 512}, from.data(), rows.data()).empty());
  CHECK(launch(load_matrices<true>, {1, 32, 512}, from.data(), columns.data()).empty());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t g = lane / 4, q = lane % 4, matrix = 64 * m;
      CAPTURE(lane);
      CAPTURE(m);
      const uint32_t row = matrix + 8 * g + 2 * q, column = matrix + 8 * (2 * q) + g;
      CHECK(rows[4 * lane + m] == (row | (row + 1) << 16));
      CHECK(columns[4 * lane + m] == (column | (column + 8) << 16));
    }
  }
}

// Element types of mma: how a number is kept, and the instruction.
struct BFloat {
  using Kept = uint16_t;
  using Sum = float;
  static constexpr auto instruction = ptx::mma_bf16;
  static Kept keep(int value) { return f32_to_bf16(static_cast<float>(value)); }
};
struct Half {
  using Kept = uint16_t;
  using Sum = float;
  static constexpr auto instruction = ptx::mma_f16;
  static Kept keep(int value) { return f32_to_f16(static_cast<float>(value)); }
};
struct Byte {
  using Kept = uint8_t;
  using Sum = int32_t;
  static constexpr auto instruction = ptx::mma_s8;
  static Kept keep(int value) { return static_cast<uint8_t>(value); }
};

// d [16, 8] += a [16, k] · b [8, k]ᵀ; each word is gathered from memory by the manual's indices.
template <typename Type>
void multiply(const typename Type::Kept *a, const typename Type::Kept *b, typename Type::Sum *d) {
  constexpr unsigned per = 4 / sizeof(typename Type::Kept), k = 8 * per;
  const unsigned g = threadIdx.x / 4, q = threadIdx.x % 4;
  const auto word = [](const typename Type::Kept *row, unsigned first) {
    uint32_t bits;
    std::memcpy(&bits, row + first, 4);
    return bits;
  };
  const uint32_t left[4] = {word(a + g * k, per * q), word(a + (g + 8) * k, per * q), word(a + g * k, per * q + k / 2),
                            word(a + (g + 8) * k, per * q + k / 2)};
  const uint32_t right[2] = {word(b + g * k, per * q), word(b + g * k, per * q + k / 2)};
  typename Type::Sum sums[4];
  for (unsigned i = 0; i < 4; ++i) sums[i] = d[(g + 8 * (i / 2)) * 8 + 2 * q + i % 2];
  Type::instruction(sums, left, right);
  for (unsigned i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * q + i % 2] = sums[i];
}

TEST_CASE_TEMPLATE("simt: mma adds the product of whole matrices to what is there", Type, BFloat, Half, Byte) {
  constexpr size_t k = 32 / sizeof(typename Type::Kept);
  std::mt19937 generator(7);
  std::uniform_int_distribution<int> small(-8, 8);  // every product and sum is exact in every type
  std::vector<int> a(16 * k), b(8 * k), expected(16 * 8);
  for (int &value : a) value = small(generator);
  for (int &value : b) value = small(generator);
  std::vector<typename Type::Kept> kept_a, kept_b;
  for (const int value : a) kept_a.push_back(Type::keep(value));
  for (const int value : b) kept_b.push_back(Type::keep(value));
  std::vector<typename Type::Sum> d(16 * 8);
  for (size_t i = 0; i < d.size(); ++i) d[i] = static_cast<typename Type::Sum>(expected[i] = static_cast<int>(i));
  for (size_t row = 0; row < 16; ++row)
    for (size_t column = 0; column < 8; ++column)
      for (size_t i = 0; i < k; ++i) expected[row * 8 + column] += a[row * k + i] * b[column * k + i];
  CHECK(launch(multiply<Type>, {}, kept_a.data(), kept_b.data(), d.data()).empty());
  for (size_t i = 0; i < d.size(); ++i) CHECK(d[i] == static_cast<typename Type::Sum>(expected[i]));
}

}  // namespace
}  // namespace moe::test
