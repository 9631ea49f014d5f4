// What the cuda sources use of the CUDA C++ language and runtime, over fibers: see launch.h. It stands in for the toolkit's
// header of the same name; nothing here is more than those sources need.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "../launch.h"
#include "../stream.h"

// ---- the language ------------------------------------------------------------------------------------------------ //

// Kernels are seen from outside, so that messages can name them.
#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define warpSize 32

#define MOE_SIMT_VECTOR(type, name, alignment)                     \
  struct alignas(alignment * 2 / 2) name##2 { type x, y; };        \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  struct alignas(alignment * 2) name##4 { type x, y, z, w; };      \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
MOE_SIMT_VECTOR(float, float, 8)
MOE_SIMT_VECTOR(int, int, 8)
MOE_SIMT_VECTOR(unsigned, uint, 8)
#undef MOE_SIMT_VECTOR
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) double2 {
  double x, y;
};

struct dim3 : moe::simt::Dimension {
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : Dimension{x, y, z} {}
};

// threadIdx and its kin: objects, since a macro of such a name would also hit the members of cudaLaunchConfig_t.
namespace moe::simt {
inline const Dimension &thread_index() { return current().index; }
inline const Dimension &block_index() { return current().block->index; }
inline const Dimension &block_size() { return shape().block; }
inline const Dimension &grid_size() { return shape().grid; }

template <const Dimension &(*source)(), unsigned Dimension::*member>
struct BuiltinMember {
  operator unsigned() const { return source().*member; }
};
template <const Dimension &(*source)()>
struct Builtin {
  BuiltinMember<source, &Dimension::x> x;
  BuiltinMember<source, &Dimension::y> y;
  BuiltinMember<source, &Dimension::z> z;
};
}  // namespace moe::simt
inline constexpr moe::simt::Builtin<moe::simt::thread_index> threadIdx{};
inline constexpr moe::simt::Builtin<moe::simt::block_index> blockIdx{};
inline constexpr moe::simt::Builtin<moe::simt::block_size> blockDim{};
inline constexpr moe::simt::Builtin<moe::simt::grid_size> gridDim{};

// ---- barriers, votes, shuffles ------------------------------------------------------------------------------------ //

inline void __syncthreads() { moe::simt::block_barrier(0, 0); }
inline int __syncthreads_or(int predicate) { return moe::simt::block_vote(predicate != 0); }
inline void __syncwarp(uint32_t mask = moe::simt::all_lanes) { moe::simt::meet_and_order(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { moe::simt::yield(); }

namespace moe::simt {

struct Exchange {
  uint64_t in = 0, out = 0;
  unsigned source = 0;
};

// Lanes whose source is not in the mask would get anything at all on a GPU: here that ends the launch.
inline void exchange(const Meeting &meeting, Warp &) {
  for (uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1) {
    auto &own = *static_cast<Exchange *>(meeting.argument[static_cast<size_t>(__builtin_ctz(rest))]);
    if ((meeting.mask >> own.source & 1u) == 0) fail("a shuffle from a lane outside the mask");
    own.out = static_cast<const Exchange *>(meeting.argument[own.source])->in;
  }
}

template <typename T>
T shuffle(uint32_t mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Exchange own;
  std::memcpy(&own.in, &value, sizeof value);
  own.source = source;
  meet(mask, exchange, &own);
  std::memcpy(&value, &own.out, sizeof value);
  return value;
}

// Every lane of the mask gets `fold` of all their values, in order of the lanes.
template <typename T, typename Result, Result (*fold)(const Meeting &, const T *)>
Result vote(uint32_t mask, T value) {
  struct Vote {
    T in;
    Result out;
  } own{value, {}};
  meet(
      mask,
      [](const Meeting &meeting, Warp &) {
        T all[warp_size]{};
        for (uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1) {
          const auto lane = static_cast<size_t>(__builtin_ctz(rest));
          all[lane] = static_cast<const Vote *>(meeting.argument[lane])->in;
        }
        const Result result = fold(meeting, all);
        for (uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1)
          static_cast<Vote *>(meeting.argument[static_cast<size_t>(__builtin_ctz(rest))])->out = result;
      },
      &own);
  return own.out;
}

template <typename T, typename Combine>
T fold_lanes(const Meeting &meeting, const T *all, Combine combine) {
  uint32_t rest = meeting.mask;
  T result = all[__builtin_ctz(rest)];
  for (rest &= rest - 1; rest != 0; rest &= rest - 1) result = combine(result, all[__builtin_ctz(rest)]);
  return result;
}
template <typename T>
T fold_sum(const Meeting &meeting, const T *all) {
  return fold_lanes(meeting, all, [](T a, T b) { return static_cast<T>(a + b); });
}
template <typename T>
T fold_max(const Meeting &meeting, const T *all) {
  return fold_lanes(meeting, all, [](T a, T b) { return a > b ? a : b; });
}
template <typename T>
T fold_min(const Meeting &meeting, const T *all) {
  return fold_lanes(meeting, all, [](T a, T b) { return a < b ? a : b; });
}
template <typename T>
T fold_or(const Meeting &meeting, const T *all) {
  return fold_lanes(meeting, all, [](T a, T b) { return static_cast<T>(a | b); });
}
inline uint32_t fold_ballot(const Meeting &meeting, const int *all) {
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < warp_size; ++lane)
    if ((meeting.mask >> lane & 1u) != 0 && all[lane] != 0) bits |= 1u << lane;
  return bits;
}

}  // namespace moe::simt

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const unsigned lane = moe::simt::current().lane, run = static_cast<unsigned>(width) - 1;
  return moe::simt::shuffle(mask, value, (lane & ~run) | (static_cast<unsigned>(source) & run));
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  const unsigned lane = moe::simt::current().lane, from = lane ^ static_cast<unsigned>(bits);
  return moe::simt::shuffle(mask, value,
                            from / static_cast<unsigned>(width) == lane / static_cast<unsigned>(width) ? from : lane);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = moe::simt::current().lane, place = lane & (static_cast<unsigned>(width) - 1);
  return moe::simt::shuffle(mask, value, place >= delta ? lane - delta : lane);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = moe::simt::current().lane, run = static_cast<unsigned>(width), place = lane & (run - 1);
  return moe::simt::shuffle(mask, value, place + delta < run ? lane + delta : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  return moe::simt::vote<int, uint32_t, moe::simt::fold_ballot>(mask, predicate);
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <typename T>
uint32_t __match_any_sync(uint32_t mask, T value) {
  uint32_t same = 0;
  for (unsigned lane = 0; lane < moe::simt::warp_size; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    if (moe::simt::shuffle(mask, value, lane) == value) same |= 1u << lane;
  }
  return same;
}
inline unsigned __reduce_add_sync(uint32_t mask, unsigned value) {
  return moe::simt::vote<unsigned, unsigned, moe::simt::fold_sum<unsigned>>(mask, value);
}
inline int __reduce_add_sync(uint32_t mask, int value) {
  return moe::simt::vote<int, int, moe::simt::fold_sum<int>>(mask, value);
}
inline unsigned __reduce_max_sync(uint32_t mask, unsigned value) {
  return moe::simt::vote<unsigned, unsigned, moe::simt::fold_max<unsigned>>(mask, value);
}
inline unsigned __reduce_min_sync(uint32_t mask, unsigned value) {
  return moe::simt::vote<unsigned, unsigned, moe::simt::fold_min<unsigned>>(mask, value);
}
inline unsigned __reduce_or_sync(uint32_t mask, unsigned value) {
  return moe::simt::vote<unsigned, unsigned, moe::simt::fold_or<unsigned>>(mask, value);
}
inline uint32_t __activemask() { return moe::simt::all_lanes; }

// ---- arithmetic ---------------------------------------------------------------------------------------------------- //

template <typename To, typename From>
To moe_simt_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float value) { return moe_simt_bits<unsigned>(value); }
inline int __float_as_int(float value) { return moe_simt_bits<int>(value); }
inline float __uint_as_float(unsigned value) { return moe_simt_bits<float>(value); }
inline float __int_as_float(int value) { return moe_simt_bits<float>(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyintf(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

template <typename T>
T __ldg(const T *address) {
  return *address;
}

// Atomics order nothing but themselves.
template <typename T, typename Next>
T moe_simt_atomic(T *address, Next next) {
  T old;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  for (T wanted = next(old);
       !__atomic_compare_exchange(address, &old, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);)
    wanted = next(old);
  return old;
}
template <typename T>
T atomicAdd(T *address, T value) {
  return moe_simt_atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T *address, T value) {
  return moe_simt_atomic(address, [=](T old) { return old > value ? old : value; });
}
template <typename T>
T atomicOr(T *address, T value) {
  return moe_simt_atomic(address, [=](T old) { return static_cast<T>(old | value); });
}
template <typename T>
T atomicExch(T *address, T value) {
  return moe_simt_atomic(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T *address, T expected, T value) {
  return moe_simt_atomic(address, [=](T old) { return old == expected ? value : old; });
}

// ---- launching ------------------------------------------------------------------------------------------------------ //

struct cudaLaunchAttributeValue {
  int cooperative, programmaticStreamSerializationAllowed;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative, cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute *attrs;
  unsigned numAttrs;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
  moe::simt::Shape shape{config->gridDim, config->blockDim, config->dynamicSmemBytes, false, ""};
  for (unsigned i = 0; i < config->numAttrs; ++i)
    if (config->attrs[i].id == cudaLaunchAttributeCooperative)
      shape.cooperative = config->attrs[i].val.cooperative != 0;
  shape.name = moe::simt::kernel_name(reinterpret_cast<const void *>(kernel));
  return moe::simt::enqueue_launch(config->stream, shape,
                                   [kernel, ... copies = Parameters(arguments)] { kernel(copies...); });
}
