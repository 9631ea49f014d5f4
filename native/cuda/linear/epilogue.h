// What happens to a sum between the products and memory: sums of other launches, kept rows, bias, activation, residual, rounding.
//
// How to use it: a thread that holds the f32 sums of rows g and g + 8 of a panel for one row of y calls `store` with both.
// In a gated stack they are gate and up of output 8 · panel + g; else outputs 16 · panel + g and + 8. It is called for every
// panel below LinearArguments::panels, also for those that the slot does not have: there the sums are ignored and zeros are
// stored.
//
//   const Epilogue epilogue(frame, arguments, slot);
//   epilogue.store(row, panel, g, sum, sum_of_row_g_plus_8);
#pragma once
#include "kernel/activation.h"
#include "kernel/element.h"
#include "linear/arguments.h"

namespace moe::cuda {

class Epilogue {
 public:
  __device__ __forceinline__ Epilogue(const Frame *frame, const LinearArguments &a, int slot)
      : a_(a),
        y_(at<void>(frame, a.y)),
        residual_(at<void>(frame, a.residual)),
        partial_(at<float>(frame, a.partial)),
        kept_(at<float>(frame, a.kept_values)),
        kept_of_(a.kept_of == nullptr ? nullptr : a.kept_of + static_cast<int64_t>(slot) * panel_rows * a.panels),
        own_rows_(ptx::load(&a.row_slots[slot].rows)),
        bias_(a.bias == nullptr ? nullptr : a.bias + ptx::load(&a.row_slots[slot].row)) {}

  __device__ __forceinline__ bool gated() const { return a_.activation >= MOE_SWIGLU; }

  __device__ __forceinline__ void store(int64_t row, int panel, int g, float first, float second) const {
    if (!gated()) {
      store_row(row, panel, g, first);
      store_row(row, panel, g + 8, second);
      return;
    }
    const int packed = panel * panel_rows + g;
    const int64_t column = static_cast<int64_t>(panel) * 8 + g;
    const bool own = column < own_rows_ / 2;
    put(row, column,
        own ? activate_gated(a_.activation, complete(row, packed, first), complete(row, packed + 8, second)) : 0.0f);
  }
  // Where the stack is not gated: one row of a panel, so that neighbours of y can be stored by neighbouring lanes.
  __device__ __forceinline__ void store_row(int64_t row, int panel, int panel_row, float sum) const {
    const int packed = panel * panel_rows + panel_row;
    put(row, packed, packed < own_rows_ ? activate(a_.activation, complete(row, packed, sum)) : 0.0f);
  }

 private:
  __device__ __forceinline__ float complete(int64_t row, int packed, float sum) const {
    if (partial_ != nullptr) sum += ptx::load(partial_ + row * a_.panels * panel_rows + packed);
    if (kept_ != nullptr) {
      const int32_t kept = ptx::load(kept_of_ + packed);
      if (kept >= 0) sum += ptx::load(kept_ + row * a_.kept_stride + kept);
    }
    return bias_ == nullptr ? sum : sum + ptx::load(bias_ + packed);
  }
  __device__ __forceinline__ void put(int64_t row, int64_t column, float value) const {
    if (column >= a_.columns) return;
    const int64_t index = row * a_.columns + column;
    if (residual_ != nullptr) value += load_float(a_.residual.dtype, residual_, index);
    store_float(a_.y.dtype, y_, index, value);
  }

  const LinearArguments &a_;
  void *y_;
  const void *residual_;
  const float *partial_;
  const float *kept_;
  const int32_t *kept_of_;
  int own_rows_;
  const float *bias_;
};

}  // namespace moe::cuda
