// decode_kernel.h for quantized activations.
#include "linear/decode_kernel.h"

namespace moe::cuda {

void launch_decode_int8(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher) {
  switch (arguments.segment[0].weight.store) {
    case MOE_I4:
      return launch_decode_form<RowForm::int8, MOE_I4>(arguments, plan, launcher);
    default:
      return launch_decode_form<RowForm::int8, MOE_I8>(arguments, plan, launcher);
  }
}

}  // namespace moe::cuda
