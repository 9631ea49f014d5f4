// Calls into the CUDA runtime: a failure becomes a moe::Error.
#pragma once
#include <cuda_runtime.h>

#include <string>

#include "moe/error.h"

namespace moe::cuda {

inline void check_cuda(cudaError_t error, const char *call) {
  if (error == cudaSuccess) return;
  const moe_code code = error == cudaErrorMemoryAllocation ? MOE_OUT_OF_MEMORY : MOE_DEVICE_LOST;
  throw Error(code, "cuda", std::string(call) + " to succeed",
              std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error));
}

}  // namespace moe::cuda

#define MOE_CUDA(call) ::moe::cuda::check_cuda((call), #call)
