// What follows the sums of a tile: bias, activation, gating, residual, and zeros past a slot's own width.
#include "linear/kernels.h"
#include "moe/operations.h"

namespace moe::cpu::MOE_ISA {
namespace {

Vec activate(int32_t activation, Vec a) {
  switch (activation) {
    case MOE_RELU:
      return max(zero(), a);
    case MOE_GELU:
      return gelu(a);
    case MOE_GELU_TANH:
    case MOE_GEGLU:
      return gelu_tanh(a);
    case MOE_SILU:
    case MOE_SWIGLU:
      return silu(a);
    default:
      return a;
  }
}

void finish(const Call &call, const Slot &slot, int64_t tile, const RowBlock *blocks, int32_t count,
            const float *sums) {
  const int columns = slot.gated ? tile_outputs / 2 : tile_outputs;
  const float *const bias = slot.bias ? slot.bias + tile * tile_outputs : nullptr;
  for (int32_t i = 0; i < count; ++i) {
    for (int32_t r = 0; r < blocks[i].rows; ++r, sums += tile_outputs) {
      const int64_t row = (blocks[i].first + r) * call.y_width;
      for (int v = 0; v < columns / width; ++v) {
        const int64_t column = tile * columns + v * width;
        const int64_t left = slot.columns() - column;
        if (left <= 0) break;
        Vec a = load(sums + v * width);
        if (bias) a = add(a, load(bias + v * width));
        a = activate(call.activation, a);
        if (slot.gated) {
          Vec up = load(sums + columns + v * width);
          if (bias) up = add(up, load(bias + columns + v * width));
          a = mul(a, up);
        }
        float *const y = call.y + row + column;
        if (left >= width) {
          if (call.residual) a = add(a, load(call.residual + row + column));
          call.past_caches ? store_past_caches(y, a) : store(y, a);
        } else {
          if (call.residual) a = add(a, load_part(call.residual + row + column, left));
          store_part(y, a, left);
        }
      }
    }
  }
}

// Past the slot's own width: 0 (+ residual).
void clear_columns(const Call &call, const RowBlock &block, int64_t begin) {
  for (int64_t row = block.first; row < block.first + block.rows; ++row) {
    for (int64_t column = begin; column < call.y_width; ++column) {
      const int64_t at = row * call.y_width + column;
      call.y[at] = call.residual ? call.residual[at] : 0.0f;
    }
  }
}

}  // namespace
}  // namespace moe::cpu::MOE_ISA
