// Random graphs of every operation on two devices, and how far apart their results are.
#pragma once
#include <cstdint>
#include <string>

#include "moe/backend.h"

namespace moe::gpu_check {

struct ConformanceOptions {
  std::string only;  // an operation, or "" for all
  int cases = 8;     // a family's weight times as many
  uint32_t seed = 1;
  bool verbose = false;
};

// Prints a line a family, and what differed. The number of cases that failed. A part of a bank that the device refuses
// (MOE_UNSUPPORTED) is counted, not failed.
int run_conformance(const moe_backend &device, const moe_backend &against, const ConformanceOptions &options);

}  // namespace moe::gpu_check
