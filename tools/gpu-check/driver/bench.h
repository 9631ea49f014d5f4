// Times of the operations that decide how fast a model runs, and their share of the limits of the same device.
#pragma once
#include <string>

#include "moe/backend.h"

namespace moe::gpu_check {

struct BenchOptions {
  std::string only;     // rows whose name contains it
  std::string json;     // a file to write, or ""
  bool cublas = false;  // the device is a GPU: cuBLAS may be timed beside it
  bool small = false;   // sizes that a stand-in runs through: the times mean nothing
};

// Prints a table; throws moe::Error.
void run_bench(const moe_backend &device, const BenchOptions &options);

// The device's own description, JSON.
std::string describe(const moe_backend &device);

}  // namespace moe::gpu_check
