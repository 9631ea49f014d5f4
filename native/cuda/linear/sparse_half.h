// Panels of the 2:4 form as sparse products of tensor cores take them (sparse_product.h).
//
// The kept values of four steps (128 inputs) are a unit. They reach mma.sp as a dense operand reaches mma
// (weight_fragment.h), and the rows as they lie: in the int8 form bytes of a row are permuted within 16 columns
// (packed.h), and the words of metadata are permuted alike, so that a block of four inputs meets its own four bytes.
#pragma once
#include "linear/sparse_product.h"

namespace moe::cuda {

template <RowForm form_, int store>
class HalfOperand {
  using Fragment = WeightFragment<form_, store>;

 public:
  static constexpr RowForm form = form_;
  static constexpr int columns = 2 * unit_columns;
  static constexpr bool whole_rows = false;
  static constexpr int row_padding = form == RowForm::int8 ? 32 : 16;  // bytes are read in eights, floats by ldmatrix
  struct Unit {
    uint4 chunk[Fragment::chunks];
    uint32_t metadata[2];
  };

  HalfOperand() = default;
  __device__ __forceinline__ HalfOperand(const SparseView &view, int slot_index, int panel, std::byte *)
      : view_(&view) {
    const PackedSlot *const slot = view.halves.slots + slot_index;
    units_ = ptx::load(&slot->steps) / unit_steps;
    own_units_ = panel < ptx::load(&slot->panels) ? units_ : 0;
    groups_ = ptx::load(&slot->groups);
    scale_ = ptx::load(&slot->scale) + static_cast<int64_t>(panel) * groups_ * panel_rows;
    const int64_t first = ptx::load(&slot->chunk), chunks = static_cast<int64_t>(units_) * Fragment::chunks;
    chunks_ = view.halves.chunks + (first + panel * chunks) * warp_lanes + lane_of_thread();
    metadata_ = view.metadata + metadata_of(store, first + panel * chunks) + lane_of_thread();
  }

  __device__ __forceinline__ int columns_of_slot() const { return units_ * columns; }

  __device__ __forceinline__ void fetch(int unit, int, Unit &to) const {
    if (unit >= own_units_) return;
#pragma unroll
    for (int i = 0; i < Fragment::chunks; ++i)
      to.chunk[i] = ptx::load_once(chunks_ + (static_cast<int64_t>(unit) * Fragment::chunks + i) * warp_lanes);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      to.metadata[i] = ptx::load(metadata_ + (2 * static_cast<int64_t>(unit) + i) * warp_lanes);
  }

  template <class Window, int blocks>
  __device__ __forceinline__ void multiply(int unit, const Unit &now, const Window &rows,
                                           SparseSums<form, blocks> &sums, bool) const {
    if (unit >= own_units_) return;
    if constexpr (form == RowForm::int8) {
#pragma unroll
      for (int half = 0; half < 2; ++half) multiply_codes(unit, half, now, rows, sums);
    } else {
#pragma unroll
      for (int step = 0; step < unit_steps; ++step) multiply_floats(unit, step, now, rows, sums);
    }
  }

 private:
  // 32 inputs.
  template <class Window, int blocks>
  __device__ __forceinline__ void multiply_floats(int unit, int step, const Unit &now, const Window &rows,
                                                  SparseSums<form, blocks> &sums) const {
    uint32_t a[Fragment::planes][4];
    Fragment::unpack(now.chunk, step, a);
    const int column = unit * columns + step * columns / unit_steps;
    for (int plane = 0; plane < rows.rows().planes; ++plane) {
#pragma unroll
      for (int n = 0; n < blocks; ++n) {
        uint32_t b[4];
        rows.load(plane, n, column, b);
#pragma unroll
        for (int own = 0; own < Fragment::planes; ++own) {
          if (own + plane > 2) continue;
          if (step % 2 == 0) {
            multiply_kept<0>(sums.product[n], a[own], b, now.metadata[step / 2]);
          } else {
            multiply_kept<1>(sums.product[n], a[own], b, now.metadata[step / 2]);
          }
        }
      }
    }
    end_group_after(column, column + columns / unit_steps, step + 1 == unit_steps, rows, sums);
  }

  template <int selector>
  __device__ __forceinline__ static void multiply_kept(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                                       uint32_t metadata) {
    if constexpr (form == RowForm::f16) {
      ptx::mma_sparse_f16<selector>(d, a, b, metadata);
    } else {
      ptx::mma_sparse_bf16<selector>(d, a, b, metadata);
    }
  }

  // 64 inputs.
  template <class Window, int blocks>
  __device__ __forceinline__ void multiply_codes(int unit, int half, const Unit &now, const Window &rows,
                                                 SparseSums<form, blocks> &sums) const {
    const int lane = lane_of_thread(), q = lane % 4, column = unit * columns + half * unit_columns;
    uint32_t a[1][4];
    Fragment::unpack(now.chunk, 2 * half, a);
    // The bytes of a lane are two kept values of block q of a step and two of block q + 4: block 2q and 2q + 1 of the
    // product.
#pragma unroll
    for (int i = 0; i < 4; ++i) a[0][i] = ptx::permute_bytes(a[0][i], 0, 0x3120);
    const uint32_t metadata = metadata_of_codes(now.metadata[half]);
    // Groups of 32 inputs are half a product each.
    const bool split = view_->group == columns / unit_steps;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      if (part == 1 && !split) break;
      const uint32_t low = split && part == 1 ? 0 : 0xffffffffu, high = split && part == 0 ? 0 : 0xffffffffu;
      const uint32_t kept[4] = {a[0][0] & low, a[0][1] & low, a[0][2] & high, a[0][3] & high};
#pragma unroll
      for (int n = 0; n < blocks; ++n) {
        uint32_t b[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint2 bytes = rows.load_bytes(n, column + 32 * i + 16 * (q % 2) + 8 * (q / 2));
          b[2 * i] = ptx::permute_bytes(bytes.x, bytes.y, 0x6420);
          b[2 * i + 1] = ptx::permute_bytes(bytes.x, bytes.y, 0x7531);
        }
        ptx::mma_sparse_s8(sums.product[n], kept, b, metadata);
      }
      const int begin = column + (split ? part * columns / unit_steps : 0);
      end_group_after(begin, column + (split && part == 0 ? columns / unit_steps : unit_columns), half == 1, rows,
                      sums);
    }
  }

  // From a lane of 16 inputs of two rows to one of 32 inputs of a row, blocks j and j + 4 side by side.
  __device__ __forceinline__ static uint32_t metadata_of_codes(uint32_t own) {
    const uint32_t other = __shfl_xor_sync(whole_warp, own, 1);
    const bool second = lane_of_thread() % 2 == 1;
    const uint32_t bytes = second ? ptx::permute_bytes(other, own, 0x7362) : ptx::permute_bytes(own, other, 0x5140);
    const uint32_t changed = (bytes ^ bytes >> 4) & 0x00f000f0u;
    return bytes ^ changed ^ changed << 4;
  }

  // Products of inputs `begin` to `end` are in `sums`; `last`: of the unit.
  template <class Window, int blocks>
  __device__ __forceinline__ void end_group_after(int begin, int end, bool last, const Window &rows,
                                                  SparseSums<form, blocks> &sums) const {
    if (!last && (view_->group == 0 || end % view_->group != 0)) return;
    float low = 1, high = 1;
    const int group = view_->group == 0 ? 0 : begin / view_->group;
    if constexpr (Fragment::integer) {
      if (group >= groups_) return;  // padding
      const int64_t index = scale_ + static_cast<int64_t>(group) * panel_rows + lane_of_thread() / 4;
      low = load_scale(view_->scale, view_->scales, index);
      high = load_scale(view_->scale, view_->scales, index + 8);
    }
    sums.end_group(rows, group, low, high, form == RowForm::int8 && store == MOE_I4 ? 4 : 0);
  }

  const SparseView *view_ = nullptr;
  const uint4 *chunks_ = nullptr;
  const uint32_t *metadata_ = nullptr;
  int64_t scale_ = 0;
  int units_ = 0, own_units_ = 0, groups_ = 0;
};

// Calls `use` with an operand of this store, which the form has; S of f32 is not among them (can_join).
template <RowForm form, class Use>
__device__ __forceinline__ void for_half_store(int32_t store, const Use &use) {
  if (store == MOE_I4) return use(HalfOperand<form, MOE_I4>());
  if (store == MOE_I8) return use(HalfOperand<form, MOE_I8>());
  if constexpr (form != RowForm::int8) {
    if (store == MOE_F16) return use(HalfOperand<form, MOE_F16>());
  }
  if constexpr (form == RowForm::bf16) use(HalfOperand<form, MOE_BF16>());
}

}  // namespace moe::cuda
