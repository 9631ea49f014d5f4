// The score of a logit, to the bit of operations.h: in double, rounded once to f32.
#pragma once
#include "kernel/element.h"
#include "kernel/reduce.h"
#include "moe/operations.h"

namespace moe::cuda {

// NaN counts as the lowest; all within ±3e38. The scores of a ReLU begin with it.
__device__ __forceinline__ float clean_logit(int32_t score, float logit) {
  constexpr float largest = 3e38f;
  const float clean = logit != logit ? -largest : fminf(fmaxf(logit, -largest), largest);
  return score == MOE_RELU_SCORE || score == MOE_RELU_NORM ? fmaxf(clean, 0.0f) : clean;
}

// What the scores of a token have in common.
struct Scoring {
  int32_t score;
  float highest;   // of the clean logits
  double divisor;  // sum of the exponentials, or root of the mean square

  __device__ __forceinline__ float operator()(float clean) const {
    const double value = static_cast<double>(clean);
    switch (score) {
      case MOE_SOFTMAX:
        return static_cast<float>(exp(value - static_cast<double>(highest)) / divisor);
      case MOE_SIGMOID:
        return static_cast<float>(1 / (1 + exp(-value)));
      case MOE_RELU_NORM:
        return highest > 0 ? static_cast<float>(value / divisor) : 0.0f;
      default:
        return clean;
    }
  }

  // Of softmax and sigmoid, in f32: within 2⁻¹⁹ of the score itself.
  __device__ __forceinline__ float approximate(float clean) const {
    if (score == MOE_SOFTMAX) return expf(clean - highest) * (1.0f / static_cast<float>(divisor));
    return 1.0f / (1.0f + expf(-clean));
  }
  // Scores grow with their logits, but two logits may share one score: then the lower index is the better choice, not the
  // larger logit. True where the scores of `higher` and `lower` are less than two units of f32 apart.
  __device__ __forceinline__ bool may_tie(float higher, float lower) const {
    constexpr float two_units = 0x1p-22f;
    if (!(higher > lower)) return false;
    switch (score) {
      case MOE_SOFTMAX:
        return higher - lower <= two_units;
      case MOE_SIGMOID:
        return higher - lower <= two_units * (1.0f + expf(higher));
      case MOE_RELU_NORM:
        return higher - lower <= two_units * higher;
      default:
        return false;
    }
  }
  // The score may be subnormal, or 0, though the logit is not: may_tie knows nothing of such. exp(−70), shared by any number
  // of experts, is still a normal f32.
  __device__ __forceinline__ bool may_vanish(float clean) const {
    switch (score) {
      case MOE_SOFTMAX:
        return clean < highest - 70.0f;
      case MOE_SIGMOID:
        return clean < -70.0f;
      case MOE_RELU_NORM:
        return clean > 0 && static_cast<double>(clean) < 1e-30 * divisor;
      default:
        return false;
    }
  }
};

}  // namespace moe::cuda
