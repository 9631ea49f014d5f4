// Linear assignment: which column each row takes so that the sum of their values is largest.
#pragma once
#include <cstdint>

namespace moe::numerics {

// value [n, n] row-major, within ±1e290; columns [n] receives a permutation. Deterministic. O(n³) time, O(n²) memory.
// INVALID_ARGUMENT where a value is not within ±1e290 or n is out of range.
void assign_maximum(const double *value, int64_t n, int32_t *columns);

}  // namespace moe::numerics
