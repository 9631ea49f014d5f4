// y = epilogue(S · rows) where n of every m inputs are kept, whatever n and m.
//
// Layout: sparse.h. Kept values become dense operands in registers: a lane looks up its eight inputs of a step in the
// row's mask and takes the value whose index is the number of bits below. A unit is 64 inputs.
// Bound: bytes of kept values and masks, each read once a row block of up to 32 rows; values come one by one, a row's
// neighbours by the four lanes of a row. Share reached: not measured on a GPU yet.
#include "linear/sparse_kernel.h"

namespace moe::cuda {

// A kept value of a float store, or a code.
__device__ __forceinline__ float load_kept(int32_t store, const std::byte *row, int index) {
  if (store == MOE_I8) return static_cast<float>(ptx::load(reinterpret_cast<const int8_t *>(row) + index));
  if (store == MOE_I4) {
    const int byte = ptx::load(reinterpret_cast<const uint8_t *>(row) + index / 2);
    return static_cast<float>(static_cast<int8_t>(index % 2 == 0 ? byte << 4 : byte) >> 4);
  }
  return load_float(store, row, index);
}

// planes: of 16-bit floats whose sum is a weight.
template <RowForm form_, int planes>
class AnyOperand {
 public:
  static constexpr RowForm form = form_;
  static constexpr int columns = unit_columns, halves = unit_columns / mask_columns, row_padding = 16;
  struct Unit {
    uint32_t mask[halves][2];  // of rows g and g + 8
  };

  __device__ __forceinline__ AnyOperand(const SparseView &view, int slot_index, int panel) : view_(view) {
    const SparseSlot *const slot = view.slots + slot_index;
    const int g = lane_of_thread() / 4;
    words_ = ptx::load(&slot->masks);
    own_words_ = panel < ptx::load(&slot->panels) ? words_ : 0;
    groups_ = ptx::load(&slot->groups);
    row_bytes_ = ptx::load(&slot->row_bytes);
    scale_ = ptx::load(&slot->scale) + static_cast<int64_t>(panel) * groups_ * panel_rows + g;
    masks_ = view.masks + ptx::load(&slot->mask) + static_cast<int64_t>(panel) * words_ * panel_rows + g;
    values_ = view.values + ptx::load(&slot->value) + (static_cast<int64_t>(panel) * panel_rows + g) * row_bytes_;
  }

  __device__ __forceinline__ int columns_of_slot() const { return (words_ + halves - 1) / halves * columns; }

  __device__ __forceinline__ void fetch(int unit, Unit &to) const {
#pragma unroll
    for (int half = 0; half < halves; ++half)
#pragma unroll
      for (int side = 0; side < 2; ++side) to.mask[half][side] = mask(unit * halves + half, side);
  }

  template <int blocks>
  __device__ __forceinline__ void multiply(int unit, const Unit &now, const RowWindow<form, blocks> &rows,
                                           SparseSums<form, blocks> &sums) const {
    constexpr int step_count = mask_columns / step_columns;
    if (unit * halves >= own_words_) return;
    uint32_t pairs[4];  // of bytes: both halves at once
#pragma unroll
    for (int half = 0; half < halves; ++half) {
      const int word = unit * halves + half, column = word * mask_columns;
      const int start[2] = {kept_before(word, 0), kept_before(word, 1)};
      if constexpr (form == RowForm::int8) {
        uint32_t a[4];
#pragma unroll
        for (int step = 0; step < step_count; ++step)
#pragma unroll
          for (int side = 0; side < 2; ++side) {
            float e[4];
            gather(now.mask[half][side], start[side], step, side, e);
            a[2 * step + side] = pack_codes(e);
          }
#pragma unroll
        for (int n = 0; n < blocks; ++n) {
          rows.load(0, n, unit * columns, pairs);
          const uint32_t b[2] = {pairs[2 * half], pairs[2 * half + 1]};
          ptx::mma_s8(sums.product[n], a, b);
        }
      } else {
        uint32_t a[step_count][planes][4];
#pragma unroll
        for (int step = 0; step < step_count; ++step)
#pragma unroll
          for (int side = 0; side < 2; ++side) {
            float e[4];
            gather(now.mask[half][side], start[side], step, side, e);
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
#pragma unroll
            for (int step = 0; step < step_count; ++step) {
              const uint32_t operand[2] = {b[2 * step], b[2 * step + 1]};
#pragma unroll
              for (int own = 0; own < planes; ++own)
                if (own + plane <= 2) moe::cuda::multiply<form>(sums.product[n], a[step][own], operand);
            }
          }
        }
      }
      end_group(column, rows, sums);
    }
  }

 private:
  // Word `word` of row g, or g + 8.
  __device__ __forceinline__ uint32_t mask(int word, int side) const {
    return word < own_words_ ? ptx::load(masks_ + static_cast<int64_t>(word) * panel_rows + 8 * side) : 0;
  }

  // Kept values of a row before the inputs of mask word `word`.
  __device__ __forceinline__ int kept_before(int word, int side) const {
    const int column = word * mask_columns, whole = column / view_.m, begin = whole * view_.m;
    int kept = whole * view_.n;
    for (int i = begin / mask_columns; i < word; ++i) {
      uint32_t bits = mask(i, side);
      if (i * mask_columns < begin) bits &= 0xffffffffu << (begin % mask_columns);
      kept += __popc(bits);
    }
    return kept;
  }

  // Columns 2q, 2q + 1, 2q + 8, 2q + 9 of a step.
  __device__ __forceinline__ void gather(uint32_t bits, int start, int step, int side, float (&e)[4]) const {
    const std::byte *const row = values_ + 8 * side * row_bytes_;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int column = step * step_columns + 2 * (lane_of_thread() % 4) + 8 * pair;
      const int index = start + __popc(bits & ((1u << column) - 1u));
      const uint32_t two = bits >> column;
      e[2 * pair] = (two & 1u) != 0 ? load_kept(view_.store, row, index) : 0.0f;
      e[2 * pair + 1] = (two & 2u) != 0 ? load_kept(view_.store, row, index + static_cast<int>(two & 1u)) : 0.0f;
    }
  }

  // In the order of packed.h: e0 e4 e1 e5 there.
  __device__ __forceinline__ static uint32_t pack_codes(const float (&e)[4]) {
    const auto byte = [](float code) { return static_cast<uint32_t>(__float2int_rn(code)) & 0xffu; };
    return byte(e[0]) | byte(e[2]) << 8 | byte(e[1]) << 16 | byte(e[3]) << 24;
  }

  template <int blocks>
  __device__ __forceinline__ void end_group(int column, const RowWindow<form, blocks> &rows,
                                            SparseSums<form, blocks> &sums) const {
    float low = 1, high = 1;
    const int group = view_.group == 0 ? 0 : column / view_.group;
    if (view_.scale >= 0) {
      if (group >= groups_) return;  // padding
      const int64_t index = scale_ + static_cast<int64_t>(group) * panel_rows;
      low = load_scale(view_.scale, view_.scales, index);
      high = load_scale(view_.scale, view_.scales, index + 8);
    }
    sums.end_group(rows, group, low, high);
  }

  const SparseView &view_;
  const std::byte *values_;
  const uint32_t *masks_;
  int64_t scale_;
  int words_, own_words_, groups_, row_bytes_;
};

template <RowForm form, int planes, int blocks>
__global__ void __launch_bounds__(sparse_threads, blocks == 1 ? 3 : 2)
    sparse_any_kernel(const Frame *frame, const __grid_constant__ SparseArguments a) {
  multiply_sparse_panels<AnyOperand<form, planes>, blocks>(frame, a);
}

namespace {

template <RowForm form, int planes>
void launch(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  using Operand = AnyOperand<form, planes>;
  if (!many_rows<1>(a.linear, launcher.device())) {
    launch_sparse_kernel<Operand, 1>("sparse_any", sparse_any_kernel<form, planes, 1>, a, plan, launcher);
  } else {
    launch_sparse_kernel<Operand, 4>("sparse_any", sparse_any_kernel<form, planes, 4>, a, plan, launcher);
  }
}

}  // namespace

void launch_sparse_any(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  const int32_t store = a.weight.store;
  switch (a.linear.segment[0].rows.form) {
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
