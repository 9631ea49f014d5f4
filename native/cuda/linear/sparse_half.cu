// y = epilogue(S · rows) where two of every four inputs are kept: sparse products of tensor cores.
//
// Layout: sparse.h; the kept values of four steps (128 inputs) are a unit. Kept values reach mma.sp as a dense operand
// reaches mma (weight_fragment.h), and the rows as they lie: in the int8 form bytes of a row are permuted within 16
// columns (packed.h), and the words of metadata are permuted alike, so that a block of four inputs meets its own four
// bytes.
// Bound: bytes of kept values and metadata, each read once a row block of up to 32 rows. Share reached: not measured on
// a GPU yet.
#include "linear/sparse_kernel.h"

namespace moe::cuda {

template <RowForm form_, int store>
class HalfOperand {
  using Fragment = WeightFragment<form_, store>;

 public:
  static constexpr RowForm form = form_;
  static constexpr int columns = 2 * unit_columns;
  static constexpr int row_padding = form == RowForm::int8 ? 32 : 16;  // bytes are read in eights, floats by ldmatrix
  struct Unit {
    uint4 chunk[Fragment::chunks];
    uint32_t metadata[2];
  };

  __device__ __forceinline__ HalfOperand(const SparseView &view, int slot_index, int panel) : view_(view) {
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

  __device__ __forceinline__ void fetch(int unit, Unit &to) const {
    if (unit >= own_units_) return;
#pragma unroll
    for (int i = 0; i < Fragment::chunks; ++i)
      to.chunk[i] = ptx::load_once(chunks_ + (static_cast<int64_t>(unit) * Fragment::chunks + i) * warp_lanes);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      to.metadata[i] = ptx::load(metadata_ + (2 * static_cast<int64_t>(unit) + i) * warp_lanes);
  }

  template <int blocks>
  __device__ __forceinline__ void multiply(int unit, const Unit &now, const RowWindow<form, blocks> &rows,
                                           SparseSums<form, blocks> &sums) const {
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
  template <int blocks>
  __device__ __forceinline__ void multiply_floats(int unit, int step, const Unit &now,
                                                  const RowWindow<form, blocks> &rows,
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
  template <int blocks>
  __device__ __forceinline__ void multiply_codes(int unit, int half, const Unit &now,
                                                 const RowWindow<form, blocks> &rows,
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
    const bool split = view_.group == columns / unit_steps;
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
  template <int blocks>
  __device__ __forceinline__ void end_group_after(int begin, int end, bool last, const RowWindow<form, blocks> &rows,
                                                  SparseSums<form, blocks> &sums) const {
    if (!last && (view_.group == 0 || end % view_.group != 0)) return;
    float low = 1, high = 1;
    const int group = view_.group == 0 ? 0 : begin / view_.group;
    if constexpr (Fragment::integer) {
      if (group >= groups_) return;  // padding
      const int64_t index = scale_ + static_cast<int64_t>(group) * panel_rows + lane_of_thread() / 4;
      low = load_scale(view_.scale, view_.scales, index);
      high = load_scale(view_.scale, view_.scales, index + 8);
    }
    sums.end_group(rows, group, low, high, form == RowForm::int8 && store == MOE_I4 ? 4 : 0);
  }

  const SparseView &view_;
  const uint4 *chunks_;
  const uint32_t *metadata_;
  int64_t scale_;
  int units_, own_units_, groups_;
};

template <RowForm form, int store, int blocks>
__global__ void __launch_bounds__(sparse_threads, store == MOE_F32 ? 1
                                                  : blocks == 1    ? 3
                                                                   : 2)
    sparse_half_kernel(const Frame *frame, const __grid_constant__ SparseArguments a) {
  multiply_sparse_panels<HalfOperand<form, store>, blocks>(frame, a);
}

namespace {

template <RowForm form, int store>
void launch(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  using Operand = HalfOperand<form, store>;
  if (!many_rows<1>(a.linear, launcher.device())) {
    launch_sparse_kernel<Operand, 1>("sparse_half", sparse_half_kernel<form, store, 1>, a, plan, launcher);
  } else {
    launch_sparse_kernel<Operand, 4>("sparse_half", sparse_half_kernel<form, store, 4>, a, plan, launcher);
  }
}

}  // namespace

void launch_sparse_half(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  const int32_t store = a.weight.store;
  switch (a.linear.segment[0].rows.form) {
    case RowForm::int8:
      return store == MOE_I4 ? launch<RowForm::int8, MOE_I4>(a, plan, launcher)
                             : launch<RowForm::int8, MOE_I8>(a, plan, launcher);
    case RowForm::f16:
      return store == MOE_I4   ? launch<RowForm::f16, MOE_I4>(a, plan, launcher)
             : store == MOE_I8 ? launch<RowForm::f16, MOE_I8>(a, plan, launcher)
                               : launch<RowForm::f16, MOE_F16>(a, plan, launcher);
    case RowForm::bf16:
      return store == MOE_I4     ? launch<RowForm::bf16, MOE_I4>(a, plan, launcher)
             : store == MOE_I8   ? launch<RowForm::bf16, MOE_I8>(a, plan, launcher)
             : store == MOE_F16  ? launch<RowForm::bf16, MOE_F16>(a, plan, launcher)
             : store == MOE_BF16 ? launch<RowForm::bf16, MOE_BF16>(a, plan, launcher)
                                 : launch<RowForm::bf16, MOE_F32>(a, plan, launcher);
  }
}

}  // namespace moe::cuda
