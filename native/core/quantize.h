// Round-to-nearest quantization of one row; convert.h is the way in.
#pragma once
#include <cstdint>
#include <vector>

#include "core/convert.h"

namespace moe {

// Codes of a group under the two candidate scales of symmetric I4; reused from row to row.
struct QuantizeSpace {
  std::vector<int8_t> codes, other;
};

// `form` stores I8 or I4; columns are values, of a SPARSE part the kept ones. Scale and offset are rounded to their dtype
// first and codes are taken against the rounded values.
//   symmetric I8  scale = max|w| / 127
//   symmetric I4  the better by squared error of max|w| / 7 and (value of largest magnitude) / −8, whose scale may be
//                 negative
//   with offset   the range is stretched to hold 0 and cut into 255 or 15 steps
//   dual-grained  the outer scale is max|w of the row| / (7·18); the scale of a group is max|w of the group| / 7 in whole
//                 outer scales, 1 to 18, and codes are cut to where |scale · code| ≤ 127
void quantize_row(const moe_part &form, const float *row, int64_t columns, const PlainTarget &target, int64_t row_index,
                  QuantizeSpace &space);

}  // namespace moe
