// Floats of another stored type to f32 and back: the one place, so that kernels know f32 only.
#pragma once
#include <cstdint>

#include "pool.h"

namespace moe::cpu {

void widen_floats(int32_t dtype, const void *from, float *to, int64_t count, int threads);
void narrow_floats(int32_t dtype, const float *from, void *to, int64_t count, int threads);

}  // namespace moe::cpu
