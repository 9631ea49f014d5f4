// What the kernels of accumulate share: which rows belong to a part of the state, and what they weigh.
#pragma once
#include "host/node.h"
#include "kernel/frame.h"
#include "ptx.h"

namespace moe::cuda {

struct AccumulateArguments {
  Place a, b, offsets, gate_of, state;
  int64_t width, second;  // Wa, Wb; b absent: it is a
  int64_t slots;          // 1 where there are no offsets
  int32_t power;
};

struct RowRange {
  int64_t begin, end;
};
__device__ __forceinline__ RowRange rows_of_slot(const Frame *frame, const AccumulateArguments &a, int64_t slot) {
  const int64_t all = rows(frame, a.a);
  if (!a.offsets.present()) return {0, all};
  const int32_t *const offsets = at<int32_t>(frame, a.offsets);
  int64_t begin = ptx::load(offsets + slot), end = ptx::load(offsets + slot + 1);
  begin = begin < 0 ? 0 : begin > all ? all : begin;  // broken offsets never reach past a
  end = end < begin ? begin : end > all ? all : end;
  return {begin, end};
}

// g^p
__device__ __forceinline__ float weight_of(const float *gate_of, int32_t power, int64_t row) {
  if (!gate_of || power == 0) return 1;
  const float gate = ptx::load(gate_of + row);
  return power == 1 ? gate : gate * gate;
}

void launch_gram(const Node &node, Launcher &launcher, const AccumulateArguments &arguments);

}  // namespace moe::cuda
