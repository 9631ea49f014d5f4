// A tile of an n:m sparse part: each lane is an output and picks its inputs from a window of x by their places, so that
// only values that are kept are read and multiplied. sums [R][32] += S·x, values in order of the row. One block of rows
// takes places and values apart in registers (few rows); for more, a piece of them is unpacked once into the thread's
// scratch, and each block of rows reads it from there. Both add the same terms in the same order. (Where there are tiles:
// amx_sparse.inl.)
//
// Bound: few rows read values and places once (memory); many rows do a lookup and a multiply-add a value (int8: four, bf16:
// two values) and output. On Zen 5 these two share one of three units, so a value takes 4/3 of the time of a dense one at
// best. Reached: `node-moe bench sparse --shape olmoe --experts 16 --top-k 4 --tokens 1,512 --activation auto`, 2026-11-29
// (docs/performance.md): 2:4 at 512 tokens takes as long as the dense bank in int4, 0.9 of it in bf16.
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

void sparse_tile(const Call &call, const Sparse &sparse, int64_t index, const RowBlock *blocks, int32_t count,
                 float *widened, float *sums) {
  const int32_t store = sparse.values.store;
#if defined(MOE_TILES)
  if (call.bf16 && store == MOE_BF16 && call.forms.rows < 0)
    return sparse_tiles_bf16(sparse, index, call.forms, blocks, count, widened, sums);
  if (call.int8 && store == MOE_I4)
    return sparse_tiles_int8<true>(sparse, index, call.forms, blocks, count, widened, sums);
  if (call.int8 && store == MOE_I8)
    return sparse_tiles_int8<false>(sparse, index, call.forms, blocks, count, widened, sums);
#elif defined(MOE_BF16_PAIRS)
  if (call.bf16 && store == MOE_BF16 && call.forms.rows < 0)
    return sparse_bf16_blocks(sparse, index, call.forms, blocks, count, widened, sums);
#endif
#if !defined(MOE_TILES)
  if (call.int8 && store == MOE_I4)
    return sparse_int8_blocks<true>(sparse, index, call.forms, blocks, count, widened, sums);
  if (call.int8 && store == MOE_I8)
    return sparse_int8_blocks<false>(sparse, index, call.forms, blocks, count, widened, sums);
#endif
  if (store == MOE_I4) return sparse_exact_blocks<MOE_I4>(sparse, index, call.forms, blocks, count, widened, sums);
  if (store == MOE_I8) return sparse_exact_blocks<MOE_I8>(sparse, index, call.forms, blocks, count, widened, sums);
  if (store == MOE_F16) return sparse_exact_blocks<MOE_F16>(sparse, index, call.forms, blocks, count, widened, sums);
  if (store == MOE_BF16) return sparse_exact_blocks<MOE_BF16>(sparse, index, call.forms, blocks, count, widened, sums);
  sparse_exact_blocks<MOE_F32>(sparse, index, call.forms, blocks, count, widened, sums);
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
