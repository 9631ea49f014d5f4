// Storing: one round-half-even from double to the stored dtype. Checks that `plan` functions share.
#include <bit>
#include <cmath>

#include "moe/half.h"
#include "reference.h"

namespace moe::reference {

namespace {

// Rounds to odd, so that a second rounding to fewer bits is as if done from the double.
float to_odd(double value) {
  const float near = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(near) == value) return near;
  uint32_t bits = std::bit_cast<uint32_t>(near);
  if (std::abs(static_cast<double>(near)) > std::abs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

}  // namespace

void store(int32_t dtype, void *data, int64_t index, double value) {
  switch (dtype) {
    case MOE_F32:
      static_cast<float *>(data)[index] = static_cast<float>(value);
      break;
    case MOE_F16:
      static_cast<uint16_t *>(data)[index] = f32_to_f16(to_odd(value));
      break;
    case MOE_BF16:
      static_cast<uint16_t *>(data)[index] = f32_to_bf16(to_odd(value));
      break;
    case MOE_F64:
      static_cast<double *>(data)[index] = value;
      break;
    default:
      static_cast<int32_t *>(data)[index] = static_cast<int32_t>(value);
      break;
  }
}

void expect(bool holds, std::string_view name, std::string_view expected, int64_t received) {
  if (!holds) throw Error(MOE_INVALID_ARGUMENT, name, expected, std::to_string(received));
}

void expect_dtype(const Tensor &tensor, int32_t dtype, std::string_view name) {
  if (!tensor) throw Error(MOE_INVALID_ARGUMENT, name, "an operand", "none");
  if (tensor.dtype == dtype) return;
  const auto text = [](int32_t which) { return dtypes[static_cast<size_t>(which)].name; };
  throw Error(MOE_DTYPE_MISMATCH, name, text(dtype), text(tensor.dtype));
}

void expect_float(const Tensor &tensor, std::string_view name) {
  if (!tensor) throw Error(MOE_INVALID_ARGUMENT, name, "an operand", "none");
  if (!dtype_float(tensor.dtype))
    throw Error(MOE_DTYPE_MISMATCH, name, "f32, f16 or bf16", dtypes[static_cast<size_t>(tensor.dtype)].name);
}

void expect_count(const Tensor &tensor, int64_t elements, std::string_view name) {
  if (tensor.elements() == elements) return;
  throw Error(MOE_SHAPE_MISMATCH, name, std::to_string(elements) + " elements", std::to_string(tensor.elements()));
}

float clamped_logit(double logit) {
  if (std::isnan(logit) || logit < -3e38) return -3e38f;
  return logit > 3e38 ? 3e38f : static_cast<float>(logit);
}

Range slot_rows(const Tensor &offsets, int64_t s, int64_t rows) {
  const auto clamp = [&](int64_t row) { return row < 0 ? 0 : row > rows ? rows : row; };
  return {clamp(offsets.integer(s)), clamp(offsets.integer(s + 1))};
}

}  // namespace moe::reference
