// The twins of the matrix products in cuda/ptx/ptx.h: of a warp, of a warpgroup, and sparse ones. The lanes of a warp meet with
// their fragments; those of a warpgroup are multiplied when they are waited for.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "../profile.h"
#include "moe/half.h"

namespace moe::cuda::ptx {

// ---- matrix products ------------------------------------------------------------------------------------------------------------ //

template <typename Sum>
struct Product {
  Sum *d;
  const uint32_t *a, *b;
};

// Gathers the fragments of a warp into whole matrices, multiplies, and hands the sums back. Element(word, i) is the i-th
// element of a 32-bit word; `per` of them are in a word, so k = 8 · per.
template <typename Sum, int per, Sum (*element)(uint32_t, int)>
inline void multiply(const simt::Meeting &meeting, simt::Warp &) {
  constexpr int k = 8 * per;
  Sum a[16][k], b[k][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto &own = *static_cast<const Product<Sum> *>(meeting.argument[static_cast<size_t>(lane)]);
    const int g = lane / 4, q = lane % 4;
    for (int word = 0; word < 4; ++word)
      for (int i = 0; i < per; ++i)
        a[g + 8 * (word & 1)][per * q + i + 4 * per * (word >> 1)] = element(own.a[word], i);
    for (int word = 0; word < 2; ++word)
      for (int i = 0; i < per; ++i) b[per * q + i + 4 * per * word][g] = element(own.b[word], i);
  }
  Sum sum[16][8]{};
  for (int row = 0; row < 16; ++row)
    for (int j = 0; j < k; ++j)
      for (int column = 0; column < 8; ++column) sum[row][column] += a[row][j] * b[j][column];
  for (int lane = 0; lane < 32; ++lane) {
    const auto &own = *static_cast<const Product<Sum> *>(meeting.argument[static_cast<size_t>(lane)]);
    for (int i = 0; i < 4; ++i) own.d[i] += sum[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)];
  }
  if (simt::profile::counting()) simt::profile::matrix_product();
}
inline float bf16_element(uint32_t word, int i) { return moe::bf16_to_f32(static_cast<uint16_t>(word >> (16 * i))); }
inline float f16_element(uint32_t word, int i) { return moe::f16_to_f32(static_cast<uint16_t>(word >> (16 * i))); }
inline int32_t s8_element(uint32_t word, int i) { return static_cast<int8_t>(word >> (8 * i)); }

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Product<float> own{d, a, b};
  simt::meet(simt::all_lanes, multiply<float, 2, bf16_element>, &own);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Product<float> own{d, a, b};
  simt::meet(simt::all_lanes, multiply<float, 2, f16_element>, &own);
}
inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Product<int32_t> own{d, a, b};
  simt::meet(simt::all_lanes, multiply<int32_t, 4, s8_element>, &own);
}

// ---- matrix products of a warpgroup -------------------------------------------------------------------------------------------- //

inline void fence_async_proxy() {}
inline void wgmma_fence() { simt::current().warpgroup_fenced = true; }
inline void wgmma_commit() {
  simt::Thread &self = simt::current();
  self.warpgroup_fenced = false;
  self.product_commits.push_back(std::move(self.products));
  self.products.clear();
}
// Products are performed here, each warp its 16 rows; sums come back into their registers with the last product on them.
template <int pending>
inline void wgmma_wait() {
  simt::Thread &self = simt::current();
  while (self.product_commits.size() > static_cast<size_t>(pending)) {
    for (const simt::WarpgroupProduct &product : self.product_commits.front()) {
      simt::WarpgroupSums &sums = self.warpgroup_sums[product.sums];
      product.perform(product, sums.values.data());
      if (--sums.pending == 0) std::memcpy(sums.registers, sums.values.data(), sums.values.size() * sizeof(uint32_t));
    }
    self.product_commits.pop_front();
  }
  if (self.product_commits.empty() && self.products.empty()) self.warpgroup_sums.clear();
}
template <typename Sum, size_t columns>
inline void wgmma_settle(Sum (&)[columns][4]) {}

// Shared addresses count from the start of the block's shared memory, which is aligned as the swizzle wants it.
template <int row_bytes>
inline uint64_t wgmma_operand(const void *data) {
  static_assert(row_bytes == 128 || row_bytes == 64);
  const auto offset = static_cast<uint64_t>(static_cast<const std::byte *>(data) - simt::current().block->shared);
  constexpr uint64_t eight_rows = 8 * row_bytes, swizzle = row_bytes == 128 ? 1 : 2;
  return (offset & 0x3ffffu) >> 4 | uint64_t{1} << 16 | eight_rows >> 4 << 32 | swizzle << 62;
}
// Where byte `byte` of row `row` of an operand lies, as hardware reads its descriptor.
inline const std::byte *operand_address(uint64_t operand, uint64_t row, uint64_t byte) {
  const uint64_t swizzle = operand >> 62, row_bytes = swizzle == 1 ? 128 : 64;
  uint64_t address =
      ((operand & 0x3fffu) << 4) + row / 8 * ((operand >> 32 & 0x3fffu) << 4) + row % 8 * row_bytes + byte;
  address ^= (address >> 7 & (row_bytes / 16 - 1)) << 4;
  return simt::current().block->shared + address;
}

template <typename Sum>
struct WarpgroupPart {
  const simt::WarpgroupProduct *product;
  Sum *sums;
};
template <typename Sum, int per, Sum (*element)(uint32_t, int), int n>
inline void multiply_warpgroup(const simt::Meeting &meeting, simt::Warp &) {
  constexpr int words = 8;  // of k
  const auto part_of = [&](int lane) -> const WarpgroupPart<Sum> & {
    return *static_cast<const WarpgroupPart<Sum> *>(meeting.argument[static_cast<size_t>(lane)]);
  };
  Sum a[16][words * per];
  for (int lane = 0; lane < 32; ++lane)
    for (int word = 0; word < 4; ++word)
      for (int i = 0; i < per; ++i)
        a[lane / 4 + 8 * (word & 1)][per * (lane % 4) + i + 4 * per * (word >> 1)] =
            element(part_of(lane).product->a[word], i);
  for (int column = 0; column < n; ++column) {
    Sum b[words * per];
    for (int word = 0; word < words; ++word) {
      uint32_t bits;
      std::memcpy(
          &bits, operand_address(part_of(0).product->b, static_cast<uint64_t>(column), static_cast<uint64_t>(4 * word)),
          sizeof bits);
      for (int i = 0; i < per; ++i) b[per * word + i] = element(bits, i);
    }
    for (int row = 0; row < 16; ++row) {
      Sum sum = 0;
      for (int k = 0; k < words * per; ++k) sum += a[row][k] * b[k];
      const WarpgroupPart<Sum> &part = part_of(4 * (row % 8) + column % 8 / 2);
      Sum &to = part.sums[column / 8 * 4 + row / 8 * 2 + column % 2];
      to = part.product->accumulate ? to + sum : sum;
    }
  }
  if (simt::profile::counting()) simt::profile::matrix_product();
}
template <typename Sum, int per, Sum (*element)(uint32_t, int), int n>
inline void perform_product(const simt::WarpgroupProduct &product, uint32_t *sums) {
  Sum own[n / 2];
  std::memcpy(own, sums, sizeof own);
  WarpgroupPart<Sum> part{&product, own};
  simt::meet(simt::all_lanes, multiply_warpgroup<Sum, per, element, n>, &part);
  std::memcpy(sums, own, sizeof own);
}
template <typename Sum, int per, Sum (*element)(uint32_t, int), size_t columns>
inline void ask_product(Sum (&d)[columns][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  simt::Thread &self = simt::current();
  if (!self.warpgroup_fenced) simt::fail("a product of a warpgroup without a fence before it");
  auto *const registers = reinterpret_cast<uint32_t *>(&d);
  size_t at = 0;
  while (at < self.warpgroup_sums.size() && self.warpgroup_sums[at].registers != registers) ++at;
  if (at == self.warpgroup_sums.size())
    self.warpgroup_sums.push_back({registers, std::vector<uint32_t>(4 * columns), 0});
  simt::WarpgroupSums &sums = self.warpgroup_sums[at];
  if (sums.pending++ == 0) {
    std::memcpy(sums.values.data(), registers, sizeof d);
    std::memset(registers, 0xff, sizeof d);
  }
  self.products.push_back({a, b, accumulate, at, perform_product<Sum, per, element, static_cast<int>(8 * columns)>});
}
template <size_t columns>
inline void wgmma_bf16(float (&d)[columns][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  ask_product<float, 2, bf16_element>(d, a, b, accumulate);
}
template <size_t columns>
inline void wgmma_f16(float (&d)[columns][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  ask_product<float, 2, f16_element>(d, a, b, accumulate);
}
template <size_t columns>
inline void wgmma_s8(int32_t (&d)[columns][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  ask_product<int32_t, 4, s8_element>(d, a, b, accumulate);
}

// ---- sparse matrix products ------------------------------------------------------------------------------------------------------ //

template <typename Sum>
struct SparseProduct {
  Sum *d;
  const uint32_t *a, *b;
  uint32_t metadata;
};

// As multiply; a is over the kept half of k = 16 · per. `selector` is of 16-bit elements.
template <typename Sum, int per, Sum (*element)(uint32_t, int), int selector>
inline void multiply_sparse(const simt::Meeting &meeting, simt::Warp &) {
  constexpr int k = 16 * per;
  const auto lane_of = [&](int lane) -> const SparseProduct<Sum> & {
    return *static_cast<const SparseProduct<Sum> *>(meeting.argument[static_cast<size_t>(lane)]);
  };
  Sum a[16][k / 2], b[k][8];
  int place[16][k / 2];
  for (int row = 0; row < 16; ++row) {
    for (int kept = 0; kept < k / 2; ++kept) {
      const int block = kept / 2;
      const int source =
          per == 2 ? 4 * (row % 8) + 2 * selector + block / 4 : 4 * (row % 8) + row / 8 + 2 * (block / 8);
      const int shift = per == 2 ? row / 8 * 16 + block % 4 * 4 : block % 8 * 4;
      const uint32_t pair = lane_of(source).metadata >> shift & 0xfu;
      if ((pair & 3u) >= pair >> 2) simt::fail("places of a sparse product that are not in order");
      const int column = kept % (4 * per), word = row / 8 + kept / (4 * per) * 2;
      place[row][kept] = 4 * block + static_cast<int>(kept % 2 == 0 ? pair & 3u : pair >> 2);
      a[row][kept] = element(lane_of(4 * (row % 8) + column / per).a[word], column % per);
    }
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int word = 0; word < 4; ++word)
      for (int i = 0; i < per; ++i)
        b[per * (lane % 4) + i + 4 * per * word][lane / 4] = element(lane_of(lane).b[word], i);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i >> 1), column = 2 * (lane % 4) + (i & 1);
      Sum sum = 0;
      for (int kept = 0; kept < k / 2; ++kept) sum += a[row][kept] * b[place[row][kept]][column];
      lane_of(lane).d[i] += sum;
    }
  }
  if (simt::profile::counting()) simt::profile::matrix_product();
}
template <int selector>
inline void mma_sparse_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  SparseProduct<float> own{d, a, b, metadata};
  simt::meet(simt::all_lanes, multiply_sparse<float, 2, bf16_element, selector>, &own);
}
template <int selector>
inline void mma_sparse_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  SparseProduct<float> own{d, a, b, metadata};
  simt::meet(simt::all_lanes, multiply_sparse<float, 2, f16_element, selector>, &own);
}
inline void mma_sparse_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  SparseProduct<int32_t> own{d, a, b, metadata};
  simt::meet(simt::all_lanes, multiply_sparse<int32_t, 4, s8_element, 0>, &own);
}

}  // namespace moe::cuda::ptx
