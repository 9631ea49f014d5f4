// y = epilogue(Σ_segments rows · Wᵀ + S · rows) for few rows, S of the 2:4 form: decoding with a base and a sparse part.
//
// Layout: decode_kernel.h; when the segments are summed the same warps go on with S (sparse_product.h), in the same registers
// and the same shared memory. Row blocks are of up to 16 rows; the store of S is looked at when the kernel runs.
// Bound: bytes of the weights and of S, each read once a row block. Share reached: not measured on a GPU yet.
#include "linear/decode_kernel.h"
#include "linear/sparse_half.h"
#include "linear/tile_form.h"

namespace moe::cuda {

struct DecodeSparseArguments {
  DecodeArguments decode;
  SparsePart sparse;
  int32_t buffer_bytes;  // for the staged rows of both
};

inline constexpr int joined_blocks = 2;  // of 8 rows

template <RowForm form, int store>
__global__ void __launch_bounds__(decode_threads, store == MOE_F32 ? 1 : 2)
    decode_sparse_kernel(const Frame *frame, const __grid_constant__ DecodeSparseArguments a) {
  decode_panels<form, store, joined_blocks>(frame, a.decode, a.buffer_bytes,
                                            [&](const RowBlock &block, int panel, int k_warp, int k_warps,
                                                std::byte *area, float (&total)[1][joined_blocks][4]) {
                                              for_half_store<form>(a.sparse.weight.store, [&](auto operand) {
                                                add_sparse<decltype(operand), 1, joined_blocks, decode_threads>(
                                                    frame, a.decode.linear, a.sparse, block, panel, k_warp, k_warps,
                                                    area, total);
                                              });
                                            });
}

void launch_decode_sparse(const LinearArguments &linear, const SparsePart &sparse, const LinearPlan &plan,
                          Launcher &launcher) {
  constexpr int block_rows = 8 * joined_blocks;
  for_tile_form(linear, [&](auto form, auto store) {
    DecodeSparseArguments a{plan_decode(linear, joined_blocks, launcher.device()), sparse, 0};
    plan_windows<HalfOperand<form.value, MOE_I8>>(a.sparse, block_rows, linear.row_capacity,
                                                  decode_warps / a.decode.panel_warps);
    a.buffer_bytes =
        std::max(a.decode.buffers * a.decode.buffer_bytes, sparse_shared_bytes(a.sparse, block_rows, decode_warps));
    const Grid grid = decode_grid(a.decode, joined_blocks, a.buffer_bytes);
    Work work = decode_work("decode_sparse", linear, plan, grid.blocks);
    work.bytes += sparse_row_bytes(sparse, linear.row_capacity) * grid.blocks.x;
    launcher.run(work, decode_sparse_kernel<form.value, store.value>, grid, a);
  });
}

}  // namespace moe::cuda
