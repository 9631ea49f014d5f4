#include "numerics/grid.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "moe/error.h"
#include "moe/half.h"

namespace moe::numerics {
namespace {

double stored(const GridForm &form, double value, const char *what) {
  const auto single = static_cast<float>(value);
  const float kept = form.half ? f16_to_f32(f32_to_f16(single)) : single;
  if (!std::isfinite(kept))
    throw Error(MOE_UNSUPPORTED, what, form.half ? "within ±65504, or f32 scales" : "within the range of f32",
                std::to_string(value));
  return static_cast<double>(kept);
}

// Among subnormal numbers rounding down may lose so much that the ends of the range fall off by more than half a step;
// the next larger number is taken then.
double stored_scale(const GridForm &form, double scale, double steps) {
  const double kept = stored(form, scale, "scale");
  if (std::abs(kept) * (steps + 0.5) >= std::abs(scale) * steps) return kept;
  if (!form.half)
    return static_cast<double>(
        std::nextafter(static_cast<float>(kept), std::copysign(INFINITY, static_cast<float>(scale))));
  const auto magnitude = static_cast<float>(std::copysign(kept, scale));
  return static_cast<double>(f16_to_f32(static_cast<uint16_t>(f32_to_f16(magnitude) + 1)));
}

double squared_error(const Grid &grid, const double *values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double error = values[i] - grid.value(grid.code(values[i]));
    sum += error * error;
  }
  return sum;
}

Grid published(const GridForm &form, Grid grid, double least, double largest) {
  const double steps = grid.high - grid.low;
  if (!form.offset) {
    largest = std::max(-least, largest);
    if (least < 0) least = -largest;
  }
  if (least == 0 && largest == 0) {
    least = -1;
    largest = 1;
  }
  grid.published = true;
  grid.scale = stored(form, (largest - least) / steps, "scale");
  grid.shift = form.offset ? std::nearbyint(-least / grid.scale) + grid.low : 0;
  grid.offset = grid.scale * grid.shift;
  return grid;
}

Grid own(const GridForm &form, Grid grid, const double *values, int64_t count, double least, double largest) {
  const double steps = grid.high - grid.low;
  if (form.offset) {
    grid.scale = stored_scale(form, (largest - least) / steps, steps);
    grid.offset = grid.scale == 0 ? 0 : stored(form, grid.low * grid.scale - least, "offset");
    return grid;
  }
  const double end = -least > largest ? least : largest;
  grid.scale = stored_scale(form, std::abs(end) / grid.high, grid.high);
  if (form.bits == 8 || end == 0) return grid;
  Grid other = grid;
  other.scale = stored_scale(form, end / grid.low, -grid.low);
  return squared_error(other, values, count) < squared_error(grid, values, count) ? other : grid;
}

}  // namespace

double Grid::code(double value) const {
  if (scale == 0) return 0;
  // The published quantizer divides in f32, where the ends of a symmetric range fall on ties.
  const double steps =
      published ? std::nearbyint(static_cast<double>(static_cast<float>(value) / static_cast<float>(scale))) + shift
                : std::nearbyint((value + offset) / scale);
  return std::clamp(steps, low, high);
}

Grid fit_grid(const GridForm &form, const double *values, int64_t count) {
  Grid grid;
  grid.low = -std::ldexp(1.0, form.bits - 1);
  grid.high = -grid.low - 1;
  double least = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    least = std::min(least, values[i]);
    largest = std::max(largest, values[i]);
  }
  return form.rounding == Rounding::published ? published(form, grid, least, largest)
                                              : own(form, grid, values, count, least, largest);
}

}  // namespace moe::numerics
