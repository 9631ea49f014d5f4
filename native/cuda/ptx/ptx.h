// All inline PTX of the project, one instruction a function. shim/ptx.h of the simt device has a twin of each.
//
// Fragments are in the layout that the PTX manual gives for the instruction. A lane is 4·g + q: g its row, q its place in
// the row. Shared addresses are passed as plain pointers.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace moe::cuda::ptx {

#define MOE_PTX __device__ __forceinline__

MOE_PTX uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- global memory: T is 1, 2, 4, 8 or 16 bytes, aligned to its size ------------------------------------------------ //

template <typename T>
MOE_PTX T load(const T *address) {
  __builtin_assume(__isGlobal(address));
  return *address;
}
// Each byte is used once: leaves the caches to others.
MOE_PTX uint4 load_once(const uint4 *address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}
template <typename T>
MOE_PTX void store(T *address, T value) {
  __builtin_assume(__isGlobal(address));
  *address = value;
}
MOE_PTX uint32_t load_acquire(const uint32_t *address) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
MOE_PTX uint32_t add_release(uint32_t *address, uint32_t value) {
  uint32_t old;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(address), "r"(value) : "memory");
  return old;
}

// ---- shared memory: the staged operands of inner loops --------------------------------------------------------------- //

template <typename T>
MOE_PTX T load_shared(const T *address) {
  __builtin_assume(__isShared(address));
  return *address;
}
template <typename T>
MOE_PTX void store_shared(T *address, T value) {
  __builtin_assume(__isShared(address));
  *address = value;
}
// Four 8×8 matrices of 16-bit elements; lane l gives the address of row l mod 8 of matrix l / 8, 16 bytes long.
MOE_PTX void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
MOE_PTX void ldmatrix_x4_transposed(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// ---- asynchronous copies, 16 bytes, past L1 --------------------------------------------------------------------------- //

// Zeros land where `valid` is false; then `from` is not read.
MOE_PTX void copy_async(void *shared, const void *from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
MOE_PTX void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the newest `pending` groups of this thread have landed.
template <int pending>
MOE_PTX void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- bulk copies and their barrier: sm_90 ----------------------------------------------------------------------------- //

MOE_PTX void mbarrier_init(uint64_t *barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives, and has the phase wait for `bytes` more.
MOE_PTX void mbarrier_arrive_expect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
MOE_PTX void mbarrier_arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Until the phase of this parity has ended.
MOE_PTX void mbarrier_wait(uint64_t *barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ended;\n"
      "bra again;\n"
      "ended:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// `bytes` is a multiple of 16, both addresses are aligned to 16; one thread asks.
MOE_PTX void bulk_copy(void *shared, const void *from, uint32_t bytes, uint64_t *barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// ---- named barriers of a block: 1 … 15 ------------------------------------------------------------------------------- //

MOE_PTX void barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
MOE_PTX void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- the next kernel of a stream may start early: sm_90, nothing elsewhere ------------------------------------------- //

// Until the kernels before this one have ended and their writes are seen.
MOE_PTX void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
MOE_PTX void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- 16-bit floats: pairs in 32 bits, the first in the low half -------------------------------------------------------- //

MOE_PTX uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
MOE_PTX uint32_t pack_f16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
MOE_PTX float f16_to_f32(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
// a·b + c in pairs, one rounding.
MOE_PTX uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
MOE_PTX uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// Bytes of the eight in {b, a}, as the four nibbles of `selector` name them.
MOE_PTX uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

// ---- matrix products of a warp: d += a·b ------------------------------------------------------------------------------- //

// m16n8k16. a: rows g and g + 8, k 2q and 2q + 8; b: column g; d: rows g, g + 8, columns 2q, 2q + 1.
MOE_PTX void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
MOE_PTX void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// m16n8k32 of bytes: a: rows g and g + 8, k 4q … 4q + 3, then + 16.
MOE_PTX void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- matrix products of a warpgroup, asynchronous: d += a·b, sm_90a ------------------------------------------------------ //

// Writes of this thread to shared memory (copy_async that were waited for among them) are seen by wgmma and bulk copies.
MOE_PTX void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Registers of the products that follow hold what was written to them.
MOE_PTX void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MOE_PTX void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All but the newest `pending` groups are done: only then their d may be read and their a be written.
template <int pending>
MOE_PTX void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from moving reads of sums over the wait before them.
template <int columns>
MOE_PTX void wgmma_settle(float (&d)[columns][4]) {
#pragma unroll
  for (int i = 0; i < 4 * columns; ++i) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
template <int columns>
MOE_PTX void wgmma_settle(int32_t (&d)[columns][4]) {
#pragma unroll
  for (int i = 0; i < 4 * columns; ++i) asm volatile("" : "+r"(d[i / 4][i % 4])::"memory");
}
// b of wgmma: rows of `row_bytes` (128 or 64), as many bytes deep, one after the other in shared memory, of which pieces of 16
// bytes are permuted: bits 4 … 6 of an address (4 and 5) are XORed with bits 7 … 9 (7 and 8). `data` may be 32-byte steps past
// the start of a row 0, which is aligned to 8 rows.
template <int row_bytes>
MOE_PTX uint64_t wgmma_operand(const void *data) {
  static_assert(row_bytes == 128 || row_bytes == 64);
  constexpr uint64_t eight_rows = 8 * row_bytes, swizzle = row_bytes == 128 ? 1 : 2;
  return (shared_address(data) & 0x3ffffu) >> 4 | uint64_t{1} << 16 | eight_rows >> 4 << 32 | swizzle << 62;
}

// m64nNk16 (k32 of bytes), N = 8 · columns. A warp has 16 rows of a and d, laid out as those of mma are: d[i] is 8 columns; a
// row of b is a column of the product. Without `accumulate` what d held does not count.
#define MOE_LIST_32(_, i)                                                                                           \
  _(i), _(i + 1), _(i + 2), _(i + 3), _(i + 4), _(i + 5), _(i + 6), _(i + 7), _(i + 8), _(i + 9), _(i + 10),        \
      _(i + 11), _(i + 12), _(i + 13), _(i + 14), _(i + 15), _(i + 16), _(i + 17), _(i + 18), _(i + 19), _(i + 20), \
      _(i + 21), _(i + 22), _(i + 23), _(i + 24), _(i + 25), _(i + 26), _(i + 27), _(i + 28), _(i + 29), _(i + 30), \
      _(i + 31)
#define MOE_TEXT_32                                                                                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31"
#define MOE_TEXT_64                                                                                               \
  MOE_TEXT_32                                                                                                     \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58," \
  "%59,%60,%61,%62,%63"
#define MOE_SUM_F(i) "+f"(d[(i) / 4][(i) % 4])
#define MOE_SUM_R(i) "+r"(d[(i) / 4][(i) % 4])
#define MOE_WGMMA(name, type, columns, operation, sums, left, right, accumulates, scales, ...)                     \
  MOE_PTX void name(type(&d)[columns][4], const uint32_t (&a)[4], uint64_t b, bool accumulate) {                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulates                                                   \
                 ", 0;\n"                                                                                          \
                 "wgmma.mma_async.sync.aligned." operation " {" sums "}, {" left "}, " right ", p" scales ";\n}\n" \
                 : __VA_ARGS__                                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate ? 1 : 0));                   \
  }
#define MOE_WGMMA_64(name, type, operation, scales, sum) \
  MOE_WGMMA(name, type, 8, operation, MOE_TEXT_32, "%32,%33,%34,%35", "%36", "%37", scales, MOE_LIST_32(sum, 0))
#define MOE_WGMMA_128(name, type, operation, scales, sum)                                                         \
  MOE_WGMMA(name, type, 16, operation, MOE_TEXT_64, "%64,%65,%66,%67", "%68", "%69", scales, MOE_LIST_32(sum, 0), \
            MOE_LIST_32(sum, 32))

MOE_WGMMA_64(wgmma_bf16, float, "m64n64k16.f32.bf16.bf16", ", 1, 1, 0", MOE_SUM_F)
MOE_WGMMA_128(wgmma_bf16, float, "m64n128k16.f32.bf16.bf16", ", 1, 1, 0", MOE_SUM_F)
MOE_WGMMA_64(wgmma_f16, float, "m64n64k16.f32.f16.f16", ", 1, 1, 0", MOE_SUM_F)
MOE_WGMMA_128(wgmma_f16, float, "m64n128k16.f32.f16.f16", ", 1, 1, 0", MOE_SUM_F)
MOE_WGMMA_64(wgmma_s8, int32_t, "m64n64k32.s32.s8.s8", "", MOE_SUM_R)
MOE_WGMMA_128(wgmma_s8, int32_t, "m64n128k32.s32.s8.s8", "", MOE_SUM_R)

#undef MOE_WGMMA_128
#undef MOE_WGMMA_64
#undef MOE_WGMMA
#undef MOE_SUM_R
#undef MOE_SUM_F
#undef MOE_TEXT_64
#undef MOE_TEXT_32
#undef MOE_LIST_32

// ---- sparse matrix products of a warp: two of every four k of a are kept ------------------------------------------------ //

// a: as m16n8k16 (k32 of bytes) over the kept k. metadata: four bits for each four k of a row, the place of the first kept
// one below that of the second. Which lane's word holds whose bits, nobody can see from results of a twin that shares the
// reading; it is what two sources say. One is the PTX manual (fragments of sparse mma): lanes 2·selector and 2·selector + 1
// of each four give the metadata of 16-bit floats, all lanes that of bytes. The other is CUTLASS, whose reordering of
// metadata (host_reorder.h) feeds ldmatrix for floats and bytes, and whose layout ELayout of the 16x8x64 product of bytes
// (mma_traits_sm120_sparse.hpp) says the same of bytes by itself.
// m16n8k32. b: k 2q and 2q + 1, then + 8, + 16, + 24. metadata of lane 4g + 2 · selector + j: k 16j … 16j + 15, of row g in
// its low half, of row g + 8 in the high one.
template <int selector>
MOE_PTX void mma_sparse_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
        "n"(selector));
}
template <int selector>
MOE_PTX void mma_sparse_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
        "n"(selector));
}
// m16n8k64 of bytes. b: k 4q … 4q + 3, then + 16, + 32, + 48. metadata of lane 4g + j + 2i: row g + 8j, k 32i … 32i + 31.
MOE_PTX void mma_sparse_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, 0x0;"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata));
}

#undef MOE_PTX

}  // namespace moe::cuda::ptx
