// y = epilogue(S · rows) where n of every m inputs are kept, whatever n and m.
//
// Layout: sparse.h. A unit is 64 inputs. Its kept values come into shared memory as they lie, a unit ahead, and become dense
// operands in registers: a lane looks up its eight inputs of a step in the row's mask and takes the value whose index is the
// number of bits below. What is not kept is multiplied by zero, so infinities and NaN of the rows are taken out of the
// product and added for themselves where they are kept.
// Bound: bytes of kept values and masks, each read once a row block of up to 32 rows. Share reached: not measured on a GPU
// yet.
#include "linear/sparse_kernel.h"

namespace moe::cuda {

// A kept value of a float store, or a code, from shared memory.
__device__ __forceinline__ float load_kept(int32_t store, const std::byte *values, int index) {
  if (store == MOE_I8) return static_cast<float>(ptx::load_shared(reinterpret_cast<const int8_t *>(values) + index));
  if (store == MOE_I4) {
    const int byte = ptx::load_shared(reinterpret_cast<const uint8_t *>(values) + index / 2);
    return static_cast<float>(static_cast<int8_t>(index % 2 == 0 ? byte << 4 : byte) >> 4);
  }
  if (store == MOE_F32) return ptx::load_shared(reinterpret_cast<const float *>(values) + index);
  if (store == MOE_F16) return widen(ptx::load_shared(reinterpret_cast<const F16 *>(values) + index));
  return widen(ptx::load_shared(reinterpret_cast<const BF16 *>(values) + index));
}

// planes: of 16-bit floats whose sum is a weight.
template <RowForm form_, int planes>
class AnyOperand {
 public:
  static constexpr RowForm form = form_;
  static constexpr int columns = unit_columns, halves = unit_columns / mask_columns, row_padding = 16;
  static constexpr bool whole_rows = true;
  struct Unit {
    uint32_t mask;            // word `lane` of the unit's
    const std::byte *values;  // on their way
  };

  AnyOperand() = default;
  __device__ __forceinline__ AnyOperand(const SparseView &view, int slot_index, int panel, std::byte *values)
      : view_(&view), values_(values) {
    const SparseSlot *const slot = view.slots + slot_index;
    units_ = ptx::load(&slot->units);
    own_units_ = panel < ptx::load(&slot->panels) ? units_ : 0;
    groups_ = ptx::load(&slot->groups);
    scale_ = ptx::load(&slot->scale) + static_cast<int64_t>(panel) * groups_ * panel_rows;
    first_ = ptx::load(&slot->unit) + static_cast<int64_t>(panel) * units_;
  }

  __device__ __forceinline__ int columns_of_slot() const { return units_ * columns; }

  __device__ __forceinline__ void fetch(int unit, int turn, Unit &to) const {
    to.mask = 0;
    std::byte *const values = values_ + turn * view_->value_bytes;
    to.values = values;
    __syncwarp();  // whoever still reads the values of two units ago
    if (unit < own_units_) {
      to.mask = ptx::load(view_->masks + (first_ + unit) * warp_lanes + lane_of_thread());
      const std::byte *const from = view_->values + (first_ + unit) * view_->value_bytes;
      for (int i = 16 * lane_of_thread(); i < view_->value_bytes; i += 16 * warp_lanes)
        ptx::copy_async(values + i, from + i);
    }
    ptx::copy_async_commit();
  }

  template <class Window, int blocks>
  __device__ __forceinline__ void multiply(int unit, const Unit &now, const Window &rows,
                                           SparseSums<form, blocks> &sums, bool special) const {
    ptx::copy_async_wait<1>();
    __syncwarp();
    if (unit >= own_units_) return;
    // Of rows g and g + 8: their masks, and how many values of the unit lie before those of a half.
    uint32_t mask[halves][2];
    int start[halves][2];
    look_up(now.mask, mask, start);
#pragma unroll
    for (int half = 0; half < halves; ++half) {
      const int column = unit * columns + half * mask_columns;
      if constexpr (form == RowForm::int8) {
        multiply_codes(now.values, mask[half], start[half], unit * columns, half, rows, sums);
      } else if (special) {
        multiply_floats<true>(now.values, mask[half], start[half], column, rows, sums);
        add_special(now.values, mask[half], start[half], column, rows, sums);
      } else {
        multiply_floats<false>(now.values, mask[half], start[half], column, rows, sums);
      }
      if (half + 1 == halves || view_->group == mask_columns) end_group(column, rows, sums);
    }
  }

 private:
  __device__ __forceinline__ static void look_up(uint32_t word, uint32_t (&mask)[halves][2], int (&start)[halves][2]) {
    static_assert(halves == 2);
    const int lane = lane_of_thread(), g = lane / 4, kept = __popc(word);
    const int of_row = kept + __shfl_xor_sync(whole_warp, kept, panel_rows);
    int before = of_row;  // and of the rows above
    for (int step = 1; step < panel_rows; step *= 2) {
      const int other = __shfl_up_sync(whole_warp, before, static_cast<unsigned>(step), panel_rows);
      if (lane % panel_rows >= step) before += other;
    }
    before -= of_row;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      mask[0][side] = __shfl_sync(whole_warp, word, g + 8 * side);
      mask[1][side] = __shfl_sync(whole_warp, word, panel_rows + g + 8 * side);
      start[0][side] = __shfl_sync(whole_warp, before, g + 8 * side);
      start[1][side] = start[0][side] + __popc(mask[0][side]);
    }
  }

  // 32 inputs of a unit.
  template <class Window, int blocks>
  __device__ __forceinline__ void multiply_codes(const std::byte *values, const uint32_t (&mask)[2],
                                                 const int (&start)[2], int column, int half, const Window &rows,
                                                 SparseSums<form, blocks> &sums) const {
    uint32_t a[4];
#pragma unroll
    for (int step = 0; step < mask_steps; ++step)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        float e[4];
        gather(values, mask[side], start[side], step, e);
        a[2 * step + side] = pack_codes(e);
      }
#pragma unroll
    for (int n = 0; n < blocks; ++n) {
      uint32_t pairs[4];  // of both halves
      rows.load(0, n, column, pairs);
      const uint32_t b[2] = {pairs[2 * half], pairs[2 * half + 1]};
      ptx::mma_s8(sums.product[n], a, b);
    }
  }

  // 32 inputs. clean: infinities and NaN of the rows count as zeros.
  template <bool clean, class Window, int blocks>
  __device__ __forceinline__ void multiply_floats(const std::byte *values, const uint32_t (&mask)[2],
                                                  const int (&start)[2], int column, const Window &rows,
                                                  SparseSums<form, blocks> &sums) const {
    uint32_t a[mask_steps][planes][4];
#pragma unroll
    for (int step = 0; step < mask_steps; ++step)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        float e[4];
        gather(values, mask[side], start[side], step, e);
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          uint32_t parts[planes];
          if constexpr (form == RowForm::f16) {
            parts[0] = ptx::pack_f16(e[2 * pair], e[2 * pair + 1]);
          } else {
            split_bf16(e[2 * pair], e[2 * pair + 1], parts);
          }
#pragma unroll
          for (int plane = 0; plane < planes; ++plane) a[step][plane][2 * pair + side] = parts[plane];
        }
      }
    for (int plane = 0; plane < rows.rows().planes; ++plane) {
#pragma unroll
      for (int n = 0; n < blocks; ++n) {
        uint32_t b[4];
        rows.load(plane, n, column, b);
        if constexpr (clean) {
#pragma unroll
          for (uint32_t &pair : b)
            pair &= (is_special<form>(pair) ? 0 : 0xffffu) | (is_special<form>(pair >> 16) ? 0 : 0xffff0000u);
        }
#pragma unroll
        for (int step = 0; step < mask_steps; ++step) {
          const uint32_t operand[2] = {b[2 * step], b[2 * step + 1]};
#pragma unroll
          for (int own = 0; own < planes; ++own)
            if (own + plane <= 2) moe::cuda::multiply<form>(sums.product[n], a[step][own], operand);
        }
      }
    }
  }

  // What multiply_floats has left out, times the values that are kept there.
  template <class Window, int blocks>
  __device__ __forceinline__ void add_special(const std::byte *values, const uint32_t (&mask)[2], const int (&start)[2],
                                              int column, const Window &rows, SparseSums<form, blocks> &sums) const {
    const int q = lane_of_thread() % 4;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      int index = start[side];
      for (uint32_t left = mask[side]; left != 0; left &= left - 1, ++index) {
        const int at = column + __ffs(static_cast<int>(left)) - 1;
        const float value = load_kept(view_->store, values, index);
#pragma unroll
        for (int n = 0; n < blocks; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const uint16_t x = rows.element(8 * n + 2 * q + c, at);
            if (is_special<form>(x))
              sums.product[n][c + 2 * side] += value * (form == RowForm::f16 ? widen(F16{x}) : widen(BF16{x}));
          }
      }
    }
  }

  // Columns 2q, 2q + 1, 2q + 8, 2q + 9 of a step.
  __device__ __forceinline__ void gather(const std::byte *values, uint32_t bits, int start, int step,
                                         float (&e)[4]) const {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int column = step * step_columns + 2 * (lane_of_thread() % 4) + 8 * pair;
      const int index = start + __popc(bits & ((1u << column) - 1u));
      const uint32_t two = bits >> column;
      e[2 * pair] = (two & 1u) != 0 ? load_kept(view_->store, values, index) : 0.0f;
      e[2 * pair + 1] = (two & 2u) != 0 ? load_kept(view_->store, values, index + static_cast<int>(two & 1u)) : 0.0f;
    }
  }

  // In the order of packed.h: e0 e4 e1 e5 there.
  __device__ __forceinline__ static uint32_t pack_codes(const float (&e)[4]) {
    const auto byte = [](float code) { return static_cast<uint32_t>(__float2int_rn(code)) & 0xffu; };
    return byte(e[0]) | byte(e[2]) << 8 | byte(e[1]) << 16 | byte(e[3]) << 24;
  }

  template <class Window, int blocks>
  __device__ __forceinline__ void end_group(int column, const Window &rows, SparseSums<form, blocks> &sums) const {
    float low = 1, high = 1;
    const int group = view_->group == 0 ? 0 : column / view_->group;
    if (view_->scale >= 0) {
      if (group >= groups_) return;  // padding
      const int64_t index = scale_ + static_cast<int64_t>(group) * panel_rows + lane_of_thread() / 4;
      low = load_scale(view_->scale, view_->scales, index);
      high = load_scale(view_->scale, view_->scales, index + 8);
    }
    sums.end_group(rows, group, low, high);
  }

  static constexpr int mask_steps = mask_columns / step_columns;

  const SparseView *view_ = nullptr;
  std::byte *values_ = nullptr;  // two units' in shared memory
  int64_t scale_ = 0, first_ = 0;
  int units_ = 0, own_units_ = 0, groups_ = 0;
};

template <RowForm form, int planes, int blocks>
__global__ void __launch_bounds__(sparse_threads, blocks == 1 && planes < 3 ? 3 : 2)
    sparse_any_kernel(const Frame *frame, const __grid_constant__ SparseArguments a) {
  multiply_sparse_panels<AnyOperand<form, planes>, blocks>(frame, a);
}

namespace {

template <RowForm form, int planes>
void launch(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  launch_sparse_kernel<AnyOperand<form, planes>>("sparse_any", sparse_any_kernel<form, planes, 1>,
                                                 sparse_any_kernel<form, planes, 4>, a, plan, launcher);
}

}  // namespace

void launch_sparse_any(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  const int32_t store = a.sparse.weight.store;
  switch (a.sparse.segment.rows.form) {
    case RowForm::int8:
      return launch<RowForm::int8, 1>(a, plan, launcher);
    case RowForm::f16:
      return launch<RowForm::f16, 1>(a, plan, launcher);
    case RowForm::bf16:
      return store == MOE_F32   ? launch<RowForm::bf16, 3>(a, plan, launcher)
             : store == MOE_F16 ? launch<RowForm::bf16, 2>(a, plan, launcher)
                                : launch<RowForm::bf16, 1>(a, plan, launcher);
  }
}

}  // namespace moe::cuda
