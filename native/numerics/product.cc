// Computes cost += A·Bᵀ, f32 rows with products and sums in f64. Layout: row-major; panels of 4 rows of each side are
// widened and transposed so that 4 × 4 sums stay in registers. Bound: rows²·columns multiply-adds.
#include "numerics/product.h"

#include <algorithm>
#include <vector>

#include "moe/checked.h"
#include "numerics/panel.h"

namespace moe {

void add_product(const float *a, const float *b, int64_t rows, int64_t columns, double *cost) {
  constexpr int64_t lanes = panel_lanes, depth = panel_depth;
  const int64_t panels = ceil_divide(rows, lanes);
  std::vector<double> a_panels(static_cast<size_t>(panels * lanes * depth)), b_panel(lanes * depth);
  for (int64_t column = 0; column < columns; column += depth) {
    const int64_t count = std::min(depth, columns - column);
    for (int64_t i = 0; i < rows; i += lanes)
      pack_panel(a + i * columns + column, columns, rows - i, count, a_panels.data() + i * depth);
    for (int64_t j = 0; j < rows; j += lanes) {
      pack_panel(b + j * columns + column, columns, rows - j, count, b_panel.data());
      for (int64_t i = 0; i < rows; i += lanes) {
        double sums[lanes][lanes] = {};
        multiply_panels(a_panels.data() + i * depth, b_panel.data(), count, sums);
        for (int64_t u = 0; u < std::min(lanes, rows - i); ++u)
          for (int64_t v = 0; v < std::min(lanes, rows - j); ++v) cost[(i + u) * rows + j + v] += sums[u][v];
      }
    }
  }
}

}  // namespace moe
