// The finished sums of a tile, f32 in shared memory: put there in the order of matrix products, taken by rows of y.
#pragma once
#include <ptx.h>

#include "linear/epilogue.h"
#include "linear/row_blocks.h"
#include "linear/tile_stage.h"

namespace moe::cuda {

template <int tokens>
class TileSums {
 public:
  // Between two tokens; lanes 4g + q that put row g of tokens 2q meet 32 different banks.
  static constexpr int stride = tile_panels * panel_rows + 4;

  __device__ __forceinline__ explicit TileSums(float *data) : data_(data) {}

  __device__ __forceinline__ void put(int token, int panel, int row, float sum) const {
    ptx::store_shared(data_ + at(token, panel, row), sum);
  }

  // By all threads of the block: a warp stores 32 neighbours of a row, which are four panels where they are gated, else two.
  __device__ __forceinline__ void store_all(const Epilogue &epilogue, const RowBlock &block, int first_panel,
                                            int panels) const {
    const bool gated = epilogue.gated();
    const int lane = lane_of_thread(), warps = static_cast<int>(blockDim.x) / 32;
    const int together = gated ? 4 : 2, each = 32 / together, row = lane % each;
    for (int i = warp_of_thread(); i < block.count * (tile_panels / together); i += warps) {
      const int token = i / (tile_panels / together), panel = i % (tile_panels / together) * together + lane / each;
      if (first_panel + panel >= panels) continue;
      const float sum = ptx::load_shared(data_ + at(token, panel, row));
      if (gated) {
        epilogue.store(block.first + token, first_panel + panel, row, sum,
                       ptx::load_shared(data_ + at(token, panel, row + 8)));
      } else {
        epilogue.store_row(block.first + token, first_panel + panel, row, sum);
      }
    }
  }

 private:
  // Every other pair of panels has its halves changed over, so that row g of four panels lies in 32 different banks.
  __device__ __forceinline__ static int at(int token, int panel, int row) {
    return token * stride + panel * panel_rows + (row ^ (panel / 2 % 2 * 8));
  }

  float *data_;
};

}  // namespace moe::cuda
