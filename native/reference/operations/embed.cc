// y[t] = scale · table[ids[t]]; an id out of range gives zeros. table [V, H], y [T, H].
// Rounding: the product in double, rounded once to the dtype of y. Bound: bytes of the rows read and written.
#include "reference.h"

namespace moe::reference {

int64_t plan_embed(const Node &node) {
  const Tensor &ids = node.input[0], &table = node.input[1], &y = node.output[0];
  expect_dtype(ids, MOE_I32, "ids");
  expect_float(table, "table");
  expect_float(y, "y");
  expect_count(y, checked_multiply(ids.elements(), table.width(), "y"), "y");
  return 0;
}

void run_embed(const Node &node) {
  const Tensor &ids = node.input[0], &table = node.input[1], &y = node.output[0];
  const double scale = node.as<moe_embed>().scale;
  const int64_t width = table.width();
  for (int64_t t = 0; t < ids.elements(); ++t) {
    const int64_t id = ids.integer(t);
    const bool known = id >= 0 && id < table.rows();
    for (int64_t h = 0; h < width; ++h) y.set(t * width + h, known ? scale * table.at(id * width + h) : 0);
  }
}

}  // namespace moe::reference
