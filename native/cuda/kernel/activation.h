// Activations in f32, as operations.h defines them.
#pragma once
#include <cuda_runtime.h>

#include "moe/operations.h"

namespace moe::cuda {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ __forceinline__ float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

// moe_activation, the ungated ones.
__device__ __forceinline__ float activate(int32_t activation, float x) {
  switch (activation) {
    case MOE_RELU:
      return x < 0 ? 0.0f : x;
    case MOE_GELU:
      return gelu(x);
    case MOE_GELU_TANH:
      return gelu_tanh(x);
    case MOE_SILU:
      return silu(x);
    default:
      return x;
  }
}
// MOE_SWIGLU and MOE_GEGLU.
__device__ __forceinline__ float activate_gated(int32_t activation, float gate, float up) {
  return (activation == MOE_SWIGLU ? silu(gate) : gelu_tanh(gate)) * up;
}

}  // namespace moe::cuda
