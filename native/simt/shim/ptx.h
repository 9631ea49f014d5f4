// The twins of cuda/ptx/ptx.h: what each instruction does, over fibers. Asynchronous copies land only when they are waited
// for; until then their destination holds NaN. Matrix products are in products.h.
#pragma once
#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "../profile.h"
#include "moe/half.h"
#include "products.h"

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

}  // namespace moe::cuda::ptx
