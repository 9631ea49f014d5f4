// How far two results may be apart: the classes and figures of test/conformance/compare.ts.
#pragma once
#include <functional>
#include <string>

#include "backend_data.h"

namespace moe::gpu_check {

enum class Bound { exact, element, transcendental, sum, chain };

// What is wrong with `actual`, or "". `k`: length of the sums. Only elements for which `counts` holds are compared.
std::string compare(const test::Array &actual, const test::Array &expected, Bound bound, int64_t k,
                    const std::function<bool(int64_t)> &counts);

}  // namespace moe::gpu_check
