// Cuts a linear into row blocks, segments and tile ranges, and runs them on the pool.
#pragma once
#include <cstdint>

#include "context.h"
#include "linear/bank.h"

namespace moe::cpu::linear {

// Whether this call quantizes its rows.
bool uses_int8(const Bank &bank, const moe_linear &attributes);
// Bytes of scratch at `largest` sizes; throws MOE_INVALID_ARGUMENT or MOE_SHAPE_MISMATCH where operands do not fit the
// bank.
int64_t scratch(const Kernels &kernels, const Bank &bank, const Context &largest);
// input[1], the bank, comes apart; the other operands are those of operations.h.
void run(const Kernels &kernels, const Bank &bank, const Context &context);

}  // namespace moe::cpu::linear
