#include "linear/decode.h"

namespace moe::cuda {

void launch_decode(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher) {
  const Segment &first = arguments.segment[0];
  const bool codes = first.weight.store == MOE_I4 || first.weight.store == MOE_I8;
  const auto launch = first.rows.form == RowForm::int8  ? launch_decode_int8
                      : first.rows.form == RowForm::f16 ? launch_decode_f16
                      : codes                           ? launch_decode_bf16_codes
                                                        : launch_decode_bf16_floats;
  launch(arguments, plan, launcher);
}

}  // namespace moe::cuda
