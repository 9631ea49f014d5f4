// The numbers that a group of weights may take once quantized.
#pragma once
#include <cstdint>

namespace moe::numerics {

enum class Rounding {
  // As round to nearest elsewhere (core/quantize.h): scale and offset rounded to their dtype first, a symmetric grid by
  // the better of its two ends.
  own,
  // As GPTQ's published quantizer: a whole zero point, and 2ᵇ − 1 steps over ±max for a symmetric grid.
  published,
};

struct GridForm {
  int bits = 4;        // 2 … 8: codes −2^(bits − 1) … 2^(bits − 1) − 1
  bool offset = true;  // else symmetric
  bool half = true;    // scale and offset are kept as f16, else f32
  Rounding rounding = Rounding::own;
};

// w ≈ scale·code − offset
struct Grid {
  double scale = 0, offset = 0;  // as stored
  double shift = 0;              // published: the whole number offset / scale
  bool published = false;
  double low = 0, high = 0;  // codes

  double code(double value) const;
  double value(double code) const { return scale * code - offset; }
};

// For `count` values. UNSUPPORTED where a scale or an offset is past the range of its dtype.
Grid fit_grid(const GridForm &form, const double *values, int64_t count);

}  // namespace moe::numerics
