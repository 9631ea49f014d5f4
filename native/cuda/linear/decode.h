// The linear kernel for few rows (decode_kernel.h). Each file of instances is one form of rows.
#pragma once
#include "host/launcher.h"
#include "linear/arguments.h"

namespace moe::cuda {

// Right for any number of rows: each row block, of up to 16, reads its weights anew. The segments have one form of rows and one
// store.
void launch_decode(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);

void launch_decode_bf16_codes(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);
void launch_decode_bf16_floats(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);
void launch_decode_f16(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);
void launch_decode_int8(const LinearArguments &arguments, const LinearPlan &plan, Launcher &launcher);

}  // namespace moe::cuda
