// Fragments of matrix instructions, against plain loops over the layouts of the PTX manual: a lane is 4·g + q.
#include <ptx.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
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

// Element types of wgmma: as those of mma, and the bytes of a row of b as the kernels keep it (64 elements).
template <typename Type>
inline constexpr int operand_row_bytes = 64 * static_cast<int>(sizeof(typename Type::Kept));
template <typename Type, size_t columns>
void multiply_warpgroup(typename Type::Sum (&d)[columns][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  if constexpr (std::is_same_v<Type, BFloat>) {
    ptx::wgmma_bf16(d, a, b, accumulate);
  } else if constexpr (std::is_same_v<Type, Half>) {
    ptx::wgmma_f16(d, a, b, accumulate);
  } else {
    ptx::wgmma_s8(d, a, b, accumulate);
  }
}

// d [64, n] = a [64, 64] · b [n, 64]ᵀ, added to what is there where `accumulate`; one product every 32 bytes of a row, two
// of them under way. A tile of other numbers lies before b: it does not begin where shared memory does. Registers of d before the
// first wait go to `unready`.
template <typename Type, size_t columns>
void multiply_tile(const typename Type::Kept *a, const typename Type::Kept *b, bool accumulate, typename Type::Sum *d,
                   uint32_t *unready) {
  constexpr int row_bytes = operand_row_bytes<Type>, products = row_bytes / 32, n = 8 * static_cast<int>(columns);
  constexpr int per = 32 / static_cast<int>(sizeof(typename Type::Kept));  // elements of a product
  const int thread = static_cast<int>(threadIdx.x), g = thread % 32 / 4, q = thread % 4, warp = thread / 32;
  SharedCutter cutter;
  const SharedArray<std::byte> tiles = cutter.take<std::byte>(2 * n * row_bytes, 1024);
  const auto *const from = reinterpret_cast<const std::byte *>(b);
  for (int i = thread; i < n * row_bytes; i += 128) {
    const int row = i / row_bytes, piece = i % row_bytes / 16;
    const int place = row_bytes == 128 ? piece ^ row % 8 : piece ^ row / 2 % 4;
    tiles[i] = std::byte{0x35};
    tiles[n * row_bytes + row * row_bytes + place * 16 + i % 16] = from[i];
  }
  ptx::fence_async_proxy();
  __syncthreads();
  const auto row_of_d = [&](int i) { return 16 * warp + g + i / 2 * 8; };
  typename Type::Sum sums[columns][4];
  for (int column = 0; column < static_cast<int>(columns); ++column)
    for (int i = 0; i < 4; ++i) sums[column][i] = d[row_of_d(i) * n + 8 * column + 2 * q + i % 2];
  uint32_t left[2][4];
  for (int product = 0; product < products; ++product) {
    auto &own = left[product % 2];
    for (int word = 0; word < 4; ++word)
      std::memcpy(&own[word], a + row_of_d(2 * (word % 2)) * 64 + product * per + per / 2 * (word / 2) + per / 8 * q,
                  4);
    ptx::wgmma_fence();
    multiply_warpgroup<Type>(sums, own, ptx::wgmma_operand<row_bytes>(tiles.data() + n * row_bytes + 32 * product),
                             accumulate || product > 0);
    ptx::wgmma_commit();
    if (product == 0) std::memcpy(unready + thread, &sums[columns - 1][3], 4);
    ptx::wgmma_wait<1>();
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_settle(sums);
  for (int column = 0; column < static_cast<int>(columns); ++column)
    for (int i = 0; i < 4; ++i) d[row_of_d(i) * n + 8 * column + 2 * q + i % 2] = sums[column][i];
}

template <typename Type, size_t columns>
void check_warpgroup_product(bool accumulate) {
  constexpr size_t n = 8 * columns, k = 64;
  CAPTURE(n);
  CAPTURE(accumulate);
  std::mt19937 generator(11);
  std::uniform_int_distribution<int> small(-8, 8);  // every product and sum is exact in every type
  std::vector<int> a(64 * k), b(n * k), expected(64 * n);
  for (int &value : a) value = small(generator);
  for (int &value : b) value = small(generator);
  std::vector<typename Type::Kept> kept_a, kept_b;
  for (const int value : a) kept_a.push_back(Type::keep(value));
  for (const int value : b) kept_b.push_back(Type::keep(value));
  std::vector<typename Type::Sum> d(64 * n);
  for (size_t i = 0; i < d.size(); ++i) {
    d[i] = static_cast<typename Type::Sum>(i);
    expected[i] = accumulate ? static_cast<int>(i) : 0;
  }
  for (size_t row = 0; row < 64; ++row)
    for (size_t column = 0; column < n; ++column)
      for (size_t i = 0; i < k; ++i) expected[row * n + column] += a[row * k + i] * b[column * k + i];
  std::vector<uint32_t> unready(128);
  const size_t shared_bytes = 2 * n * operand_row_bytes<Type>;
  CHECK(launch(multiply_tile<Type, columns>, {1, 128, shared_bytes}, kept_a.data(), kept_b.data(), accumulate, d.data(),
               unready.data())
            .empty());
  size_t wrong = 0, early = 0;
  for (size_t i = 0; i < d.size(); ++i) wrong += d[i] != static_cast<typename Type::Sum>(expected[i]);
  for (const uint32_t bits : unready) early += bits != 0xffffffffu;
  CHECK(wrong == 0);
  CHECK(early == 0);
}

TEST_CASE_TEMPLATE("simt: wgmma multiplies registers by swizzled rows; its sums can be read after the wait", Type,
                   BFloat, Half, Byte) {
  for (const bool accumulate : {false, true}) {
    check_warpgroup_product<Type, 8>(accumulate);
    check_warpgroup_product<Type, 16>(accumulate);
  }
}

void multiply_unfenced() {
  SharedCutter cutter;
  const SharedArray<std::byte> rows = cutter.take<std::byte>(64 * 128, 1024);
  float sums[8][4] = {};
  const uint32_t left[4] = {};
  ptx::wgmma_bf16(sums, left, ptx::wgmma_operand<128>(rows.data()), false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
}

TEST_CASE("simt: wgmma without a fence before it is an error") {
  CHECK(contains(launch(multiply_unfenced, {1, 128, 64 * 128}), "without a fence"));
}

}  // namespace
}  // namespace moe::test
