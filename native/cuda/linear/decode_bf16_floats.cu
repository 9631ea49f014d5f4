// decode_kernel.h for activations as planes of bf16 under float weights.
#include "linear/decode_kernel.h"

namespace moe::cuda {

void launch_decode_bf16_floats(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher) {
  switch (arguments.segment[0].weight.store) {
    case MOE_BF16:
      return launch_decode_form<RowForm::bf16, MOE_BF16>(arguments, plan, launcher);
    case MOE_F16:
      return launch_decode_form<RowForm::bf16, MOE_F16>(arguments, plan, launcher);
    default:
      return launch_decode_form<RowForm::bf16, MOE_F32>(arguments, plan, launcher);
  }
}

}  // namespace moe::cuda
