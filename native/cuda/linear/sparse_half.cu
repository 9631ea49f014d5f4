// y = epilogue(S · rows) where two of every four inputs are kept.
//
// Layout: sparse.h, sparse_half.h.
// Bound: bytes of kept values and metadata, each read once a row block of up to 32 rows. Share reached: not measured on
// a GPU yet.
#include "linear/sparse_half.h"
#include "linear/sparse_kernel.h"

namespace moe::cuda {

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
  launch_sparse_kernel<HalfOperand<form, store>>("sparse_half", sparse_half_kernel<form, store, 1>,
                                                 sparse_half_kernel<form, store, 4>, a, plan, launcher);
}

}  // namespace

void launch_sparse_half(const SparseArguments &a, const LinearPlan &plan, Launcher &launcher) {
  const int32_t store = a.sparse.weight.store;
  switch (a.sparse.segment.rows.form) {
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
