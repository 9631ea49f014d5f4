// y[i] = x[index[i]]; an index out of range gives zeros. x [T, W] float or i32, y [M, W] as x. No rounding: bytes are
// copied. Bound: bytes of y, twice.
#include <cstring>

#include "reference.h"

namespace moe::reference {

int64_t plan_take(const Node &node) {
  const Tensor &x = node.input[0], &index = node.input[1], &y = node.output[0];
  if (!x || x.dtype != MOE_I32) expect_float(x, "x");
  expect_dtype(index, MOE_I32, "index");
  expect_dtype(y, x.dtype, "y");
  expect_count(y, checked_multiply(index.elements(), x.width(), "y"), "y");
  return 0;
}

void run_take(const Node &node) {
  const Tensor &x = node.input[0], &index = node.input[1], &y = node.output[0];
  const auto row = static_cast<size_t>(dtype_bytes(x.dtype, x.width()));
  for (int64_t i = 0; i < index.elements(); ++i) {
    const int64_t from = index.integer(i);
    std::byte *to = y.data + static_cast<size_t>(i) * row;
    if (from >= 0 && from < x.rows()) {
      std::memcpy(to, x.data + static_cast<size_t>(from) * row, row);
    } else {
      std::memset(to, 0, row);
    }
  }
}

}  // namespace moe::reference
