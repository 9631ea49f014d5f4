// Codes, scales and offsets of one row: the range of each group, then code = round-half-even((w + offset) / scale).
// Layout: a row of f32 [columns]; groups of `group` columns, the last one shorter; codes as convert.cc's rows.
// Bound: about ten vector operations and a division an element (twice for symmetric I4); the row stays in the cache.
#include "core/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "moe/dtype.h"
#include "moe/error.h"
#include "moe/half.h"

namespace moe {
namespace {

struct Range {
  float low, high;  // least and largest value
};

// Sums and extremes run in this many lanes, since one chain of them would not be vectorized.
constexpr int64_t lanes = 8;

Range finite_range(const float *values, int64_t count, int64_t row) {
  uint32_t bits[lanes] = {};
  float low[lanes], high[lanes];
  std::fill(low, low + lanes, values[0]);
  std::fill(high, high + lanes, values[0]);
  const auto visit = [&](int64_t lane, float value) {
    bits[lane] |= (std::bit_cast<uint32_t>(value) & 0x7fffffffu) + 0x00800000u;  // the top bit: NaN or infinity
    low[lane] = value < low[lane] ? value : low[lane];
    high[lane] = value > high[lane] ? value : high[lane];
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) visit(lane, values[i + lane]);
  for (; i < count; ++i) visit(0, values[i]);
  uint32_t all_bits = 0;
  for (const uint32_t lane : bits) all_bits |= lane;
  const Range range{*std::min_element(low, low + lanes), *std::max_element(high, high + lanes)};
  if (all_bits >= 0x80000000u)
    throw Error(MOE_INVALID_ARGUMENT, "row " + std::to_string(row), "finite weights", "NaN or infinity");
  return range;
}

[[noreturn]] void too_large(const char *what, double value, int64_t row) {
  throw Error(MOE_UNSUPPORTED, "row " + std::to_string(row),
              std::string("a ") + what + " within ±65504, or scale 'f32'", std::to_string(value));
}

float rounded_to(int32_t dtype, double value, const char *what, int64_t row) {
  if (dtype == MOE_F32) return static_cast<float>(value);
  const float rounded = f16_to_f32(f32_to_f16(static_cast<float>(value)));
  if (std::isinf(rounded)) too_large(what, value, row);
  return rounded;
}

// The scale in its dtype. Among subnormal numbers rounding down may lose so much that the ends of the range fall off by
// more than half a step; the next larger number is taken then.
float rounded_scale(int32_t dtype, double scale, double steps, int64_t row) {
  float rounded = rounded_to(dtype, scale, "scale", row);
  if (std::abs(rounded) * (steps + 0.5) >= std::abs(scale) * steps) return rounded;
  if (dtype == MOE_F32) return std::nextafter(rounded, static_cast<float>(std::copysign(INFINITY, scale)));
  const uint16_t bits = f32_to_f16(static_cast<float>(std::copysign(rounded, scale)));
  return f16_to_f32(static_cast<uint16_t>(bits + 1));
}

// code = round-half-even((w + offset) / scale), cut to [low, high]; returns the squared error.
double encode(const float *values, int64_t count, float scale, float offset, float low, float high, int8_t *codes) {
  constexpr float magic = 12582912.0f;  // 1.5·2^23: adding it rounds to a whole number, half to even
  if (scale == 0) {
    std::fill(codes, codes + count, int8_t{0});
    return 0;
  }
  float errors[lanes] = {};
  const auto visit = [&](int64_t lane, int64_t i) {
    float code = (values[i] + offset) / scale;
    code = code < low ? low : code;
    code = code > high ? high : code;
    code = (code + magic) - magic;
    codes[i] = static_cast<int8_t>(static_cast<int32_t>(code));
    const float difference = code - (values[i] + offset) / scale;
    errors[lane] += difference * difference;
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) visit(lane, i + lane);
  for (; i < count; ++i) visit(0, i);
  double error = 0;
  for (const float lane : errors) error += static_cast<double>(lane);
  return error * scale * scale;
}

void store_number(int32_t dtype, float value, void *to, int64_t index) {
  auto *bytes = static_cast<std::byte *>(to);
  if (dtype == MOE_F32) {
    std::memcpy(bytes + index * 4, &value, 4);
  } else {
    const uint16_t half = f32_to_f16(value);
    std::memcpy(bytes + index * 2, &half, 2);
  }
}

struct GroupForm {
  float scale, offset;
};

GroupForm quantize_group(const moe_part &form, const float *values, int64_t count, int64_t row, QuantizeSpace &space,
                         int8_t *codes) {
  const Range range = finite_range(values, count, row);
  const float low = form.store == MOE_I8 ? -128 : -8, high = form.store == MOE_I8 ? 127 : 7;
  if (form.offset >= 0) {
    const double least = std::min(range.low, 0.0f), largest = std::max(range.high, 0.0f), steps = double{high} - low;
    const float scale = rounded_scale(form.scale, (largest - least) / steps, steps, row);
    const float offset = rounded_to(form.offset, double{low} * scale - least, "offset", row);
    if (scale == 0) {
      encode(values, count, 0, 0, low, high, codes);
      return {0, 0};
    }
    encode(values, count, scale, offset, low, high, codes);
    return {scale, offset};
  }
  const bool negative = -range.low > range.high;
  const double largest = negative ? range.low : range.high;
  const float scale = rounded_scale(form.scale, std::abs(largest) / high, high, row);
  const double error = encode(values, count, scale, 0, low, high, codes);
  if (form.store == MOE_I8) return {scale, 0};
  const float signed_scale = rounded_scale(form.scale, largest / -8, 8, row);
  if (encode(values, count, signed_scale, 0, low, high, space.other.data()) >= error) return {scale, 0};
  std::copy(space.other.begin(), space.other.begin() + count, codes);
  return {signed_scale, 0};
}

// Integer scales of groups under one outer scale a row. 18 · 7 is the largest product of a scale and a code that both
// ends of the range reach within ±127.
void quantize_dual(const moe_part &form, const float *values, int64_t columns, const PlainTarget &target,
                   int64_t row_index, int8_t *codes) {
  constexpr double largest_code = 7, largest_scale = 18;
  const Range all = finite_range(values, columns, row_index);
  const double largest = std::max(-static_cast<double>(all.low), static_cast<double>(all.high));
  const float outer = rounded_scale(form.outer, largest / (largest_code * largest_scale), 127, row_index);
  store_number(form.outer, outer, target.outer, 0);
  auto *scales = static_cast<int8_t *>(target.scale);
  for (int64_t first = 0, index = 0; first < columns; first += form.group, ++index) {
    const int64_t count = std::min<int64_t>(form.group, columns - first);
    const Range range = finite_range(values + first, count, row_index);
    const double wanted = std::max(-static_cast<double>(range.low), static_cast<double>(range.high)) / largest_code;
    const double scale = outer == 0 ? 1 : std::clamp(std::nearbyint(wanted / outer), 1.0, largest_scale);
    const float bound = static_cast<float>(std::floor(127 / scale));
    encode(values + first, count, outer * static_cast<float>(scale), 0, std::max(-8.0f, -bound), std::min(7.0f, bound),
           codes + first);
    scales[index] = static_cast<int8_t>(scale);
  }
}

}  // namespace

void quantize_row(const moe_part &form, const float *row, int64_t columns, const PlainTarget &target, int64_t row_index,
                  QuantizeSpace &space) {
  space.codes.resize(static_cast<size_t>(columns) + 1);
  space.other.resize(static_cast<size_t>(columns));
  int8_t *codes = space.codes.data();
  const int64_t group = form.group == 0 ? columns : group_values(form);
  if (form.outer >= 0) quantize_dual(form, row, columns, target, row_index, codes);
  for (int64_t first = 0, index = 0; form.outer < 0 && first < columns; first += group, ++index) {
    const int64_t count = std::min(group, columns - first);
    const GroupForm made = quantize_group(form, row + first, count, row_index, space, codes + first);
    store_number(form.scale, made.scale, target.scale, index);
    if (form.offset >= 0) store_number(form.offset, made.offset, target.offset, index);
  }
  if (form.store == MOE_I8) {
    std::memcpy(target.values, codes, static_cast<size_t>(columns));
    return;
  }
  codes[columns] = 0;  // the high half of the last byte of an odd row
  auto *bytes = static_cast<uint8_t *>(target.values);
  for (int64_t k = 0; k < columns; k += 2)
    bytes[k / 2] = static_cast<uint8_t>((codes[k] & 15) | ((codes[k + 1] & 15) << 4));
}

}  // namespace moe
