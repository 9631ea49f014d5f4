// The twins of cuda/ptx/ptx.h: what each instruction does, over fibers. Asynchronous copies land only when they are waited
// for; until then their destination holds NaN.
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "../profile.h"
#include "moe/half.h"

namespace moe::cuda::ptx {

// A GPU faults on an address out of line, and takes one of the wrong space for something else without a word.
__forceinline__ void check_address(const void *address, size_t bytes, bool shared) {
  const simt::Block &block = *simt::current().block;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address), base = reinterpret_cast<uintptr_t>(block.shared);
  if (at % bytes != 0 || (at - base < block.shared_bytes) != shared) simt::fail_access(address, bytes, shared);
}

// ---- global memory ------------------------------------------------------------------------------------------------- //

template <typename T>
__forceinline__ T load(const T *address, const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
  check_address(address, sizeof(T), false);
  if (simt::profile::counting()) simt::profile::global_access(file, line, address, sizeof(T), false);
  return *address;
}
template <typename T>
__forceinline__ T load_once(const T *address, const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
  return load(address, file, line);
}
template <typename T>
__forceinline__ void store(T *address, T value, const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
  check_address(address, sizeof(T), false);
  if (simt::profile::counting()) simt::profile::global_access(file, line, address, sizeof(T), true);
  *address = value;
}
inline uint32_t load_acquire(const uint32_t *address) {
  simt::yield();
  const uint32_t value = __atomic_load_n(address, __ATOMIC_ACQUIRE);
  return value;
}
inline uint32_t add_release(uint32_t *address, uint32_t value) {
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
}

// ---- shared memory --------------------------------------------------------------------------------------------------- //

template <typename T>
__forceinline__ T load_shared(const T *address, const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
  check_address(address, sizeof(T), true);
  if (simt::profile::counting()) simt::profile::shared_access(file, line, address, sizeof(T));
  return *address;
}
template <typename T>
__forceinline__ void store_shared(T *address, T value, const char *file = __builtin_FILE(),
                                  unsigned line = __builtin_LINE()) {
  check_address(address, sizeof(T), true);
  if (simt::profile::counting()) simt::profile::shared_access(file, line, address, sizeof(T));
  *address = value;
}

struct MatrixLoad {
  const void *row;
  uint32_t *result;
};
template <bool transposed>
inline void load_matrices(const simt::Meeting &meeting, simt::Warp &) {
  std::array<const void *, 32> rows;
  for (size_t lane = 0; lane < 32; ++lane) rows[lane] = static_cast<const MatrixLoad *>(meeting.argument[lane])->row;
  if (simt::profile::counting()) simt::profile::shared_rows(rows.data(), rows.size());
  for (size_t lane = 0; lane < 32; ++lane) {
    const size_t g = lane / 4, q = lane % 4;
    uint32_t *const result = static_cast<const MatrixLoad *>(meeting.argument[lane])->result;
    for (size_t m = 0; m < 4; ++m) {
      uint16_t pair[2];
      for (size_t i = 0; i < 2; ++i) {
        const size_t row = transposed ? 2 * q + i : g, column = transposed ? g : 2 * q + i;
        std::memcpy(&pair[i], static_cast<const char *>(rows[8 * m + row]) + 2 * column, 2);
      }
      result[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
    }
  }
}
// What the instruction reads is read by this lane too, so that the sanitizer sees it.
inline void touch_row(const void *row) {
  for (size_t i = 0; i < 4; ++i) (void)static_cast<const volatile uint32_t *>(row)[i];
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
  touch_row(row);
  MatrixLoad own{row, r};
  simt::meet(simt::all_lanes, load_matrices<false>, &own);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void *row) {
  touch_row(row);
  MatrixLoad own{row, r};
  simt::meet(simt::all_lanes, load_matrices<true>, &own);
}

// ---- asynchronous copies ----------------------------------------------------------------------------------------------- //

inline void copy_async(void *shared, const void *from, bool valid = true, const char *file = __builtin_FILE(),
                       unsigned line = __builtin_LINE()) {
  if (simt::profile::counting()) {
    if (valid) simt::profile::global_access(file, line, from, 16, false);
    simt::profile::shared_access(file, line, shared, 16);
  }
  std::memset(shared, 0xff, 16);
  simt::current().copies.push_back({shared, from, valid ? size_t{16} : 0, valid ? size_t{0} : 16});
}
inline void copy_async_commit() {
  simt::Thread &self = simt::current();
  self.commits.push_back(std::move(self.copies));
  self.copies.clear();
}
inline void land(const simt::Copy &copy) {
  if (copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
  std::memset(static_cast<char *>(copy.to) + copy.bytes, 0, copy.zeros);
}
template <int pending>
inline void copy_async_wait() {
  simt::Thread &self = simt::current();
  while (self.commits.size() > static_cast<size_t>(pending)) {
    for (const simt::Copy &copy : self.commits.front()) land(copy);
    self.commits.pop_front();
  }
}

// ---- bulk copies and their barrier -------------------------------------------------------------------------------------- //

// A barrier object is 64 bits: arrivals of a phase and those to come, bytes to come, and the phase's parity.
struct Phase {
  uint32_t arrivals : 15, awaited : 16, parity : 1;
  int32_t bytes;
};
static_assert(sizeof(Phase) == 8);
inline void end_phase(Phase &phase) {
  if (phase.awaited != 0 || phase.bytes != 0) return;
  phase.awaited = phase.arrivals;
  phase.parity ^= 1u;
}
inline void mbarrier_init(uint64_t *barrier, uint32_t arrivals) {
  const simt::Unseen unseen;
  const Phase phase{arrivals, arrivals, 0, 0};
  std::memcpy(barrier, &phase, sizeof phase);
}
inline void mbarrier_arrive_expect(uint64_t *barrier, uint32_t bytes) {
  const simt::Unseen unseen;
  Phase phase;
  std::memcpy(&phase, barrier, sizeof phase);
  if (phase.awaited == 0) simt::fail("more arrivals at an mbarrier than it was made for");
  simt::publish(barrier);
  phase.bytes += static_cast<int32_t>(bytes);
  --phase.awaited;
  end_phase(phase);
  std::memcpy(barrier, &phase, sizeof phase);
}
inline void mbarrier_arrive(uint64_t *barrier) { mbarrier_arrive_expect(barrier, 0); }
inline void land_bulk(uint64_t *barrier) {
  auto &bulk = simt::current().block->bulk;
  for (size_t i = 0; i < bulk.size();) {
    if (bulk[i].barrier != barrier) {
      ++i;
      continue;
    }
    std::memcpy(bulk[i].copy.to, bulk[i].copy.from, bulk[i].copy.bytes);
    Phase phase;
    std::memcpy(&phase, barrier, sizeof phase);
    phase.bytes -= static_cast<int32_t>(bulk[i].copy.bytes);
    bulk.erase(bulk.begin() + static_cast<std::ptrdiff_t>(i));
    end_phase(phase);
    std::memcpy(barrier, &phase, sizeof phase);
  }
}
inline void mbarrier_wait(uint64_t *barrier, uint32_t parity) {
  const simt::Unseen unseen;
  for (;;) {
    land_bulk(barrier);
    Phase phase;
    std::memcpy(&phase, barrier, sizeof phase);
    if (phase.parity != parity) break;
    simt::yield();
  }
  simt::observe(barrier);
}
inline void bulk_copy(void *shared, const void *from, uint32_t bytes, uint64_t *barrier,
                      const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
    simt::fail("a bulk copy that is not in multiples of 16 bytes");
  if (simt::profile::counting()) simt::profile::global_access(file, line, from, bytes, false);
  std::memset(shared, 0xff, bytes);  // seen: nobody may still read what was there
  const simt::Unseen unseen;
  simt::publish(barrier);
  simt::current().block->bulk.push_back({barrier, {shared, from, bytes, 0}});
}

// ---- named barriers, early starts ---------------------------------------------------------------------------------------- //

inline void barrier_sync(int id, int threads) {
  simt::block_barrier(static_cast<unsigned>(id), static_cast<unsigned>(threads));
}
inline void barrier_arrive(int id, int threads) {
  simt::block_arrive(static_cast<unsigned>(id), static_cast<unsigned>(threads));
}
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

// ---- 16-bit floats ---------------------------------------------------------------------------------------------------------- //

inline uint32_t pack_bf16(float low, float high) {
  return moe::f32_to_bf16(low) | static_cast<uint32_t>(moe::f32_to_bf16(high)) << 16;
}
inline uint32_t pack_f16(float low, float high) {
  return moe::f32_to_f16(low) | static_cast<uint32_t>(moe::f32_to_f16(high)) << 16;
}
inline float f16_to_f32(uint16_t bits) { return moe::f16_to_f32(bits); }
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  const auto half = [&](int shift) {
    const auto at = [&](uint32_t pair) { return moe::bf16_to_f32(static_cast<uint16_t>(pair >> shift)); };
    return static_cast<float>(static_cast<double>(at(a)) * at(b) + at(c));
  };
  return pack_bf16(half(0), half(16));
}
inline uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
  const auto half = [&](int shift) {
    const auto at = [&](uint32_t pair) { return moe::f16_to_f32(static_cast<uint16_t>(pair >> shift)); };
    return static_cast<float>(static_cast<double>(at(a)) * at(b) + at(c));
  };
  return pack_f16(half(0), half(16));
}
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = selector >> (4 * i) & 0xfu;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (code & 7u))) & 0xffu;
    if ((code & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0;
    result |= byte << (8 * i);
  }
  return result;
}

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
