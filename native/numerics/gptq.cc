// Bound: columns³ / 2 multiply-adds for the factor, rows·columns² / 2 for the feedback.
#include "numerics/gptq.h"

#include <algorithm>
#include <vector>

#include "moe/checked.h"
#include "moe/half.h"
#include "numerics/check.h"
#include "numerics/feedback.h"

namespace moe::numerics {
namespace {

constexpr int64_t block = 128;

void store(bool half, double value, void *to, size_t index) {
  const auto single = static_cast<float>(value);
  if (half)
    static_cast<uint16_t *>(to)[index] = f32_to_f16(single);
  else
    static_cast<float *>(to)[index] = single;
}

// Codes of a row as the plain form keeps them.
void pack_row(const int8_t *codes, int64_t columns, bool nibbles, uint8_t *to) {
  if (!nibbles) {
    std::copy_n(codes, columns, reinterpret_cast<int8_t *>(to));
    return;
  }
  for (int64_t j = 0; j < columns; j += 2) {
    const int high = j + 1 < columns ? codes[j + 1] : 0;
    to[j / 2] = static_cast<uint8_t>((codes[j] & 15) | ((high & 15) << 4));
  }
}

}  // namespace

void gptq(const float *w, const double *hessian, int64_t rows, int64_t columns, const GptqOptions &options,
          const GptqTarget &to) {
  constexpr int64_t most_side = int64_t{1} << 24;
  require_size(rows, 0, most_side, "rows");
  require_size(columns, 1, most_side, "columns");
  require_size(options.form.bits, 2, options.nibbles ? 4 : 8, "bits");
  require_size(options.group, 0, most_side, "group");
  const int64_t count = checked_multiply(rows, columns, "rows");
  require_finite(w, count, "weight");
  const int64_t group = options.group == 0 ? columns : options.group, groups = ceil_divide(columns, group);
  const Feedback feedback = prepare_feedback(hessian, columns, options.damping, options.by_size);
  const auto weight = [&](int64_t row, int64_t column) {
    return feedback.dead[static_cast<size_t>(column)] ? 0.0 : static_cast<double>(w[row * columns + column]);
  };
  std::vector<Grid> grids(static_cast<size_t>(rows * groups));
  std::vector<double> work(static_cast<size_t>(count));
  std::vector<int8_t> codes(work.size());
  parallel_for(rows, [&](int64_t row) {
    std::vector<double> plain(static_cast<size_t>(columns));
    for (int64_t j = 0; j < columns; ++j) plain[static_cast<size_t>(j)] = weight(row, j);
    for (int64_t j = 0; j < columns; ++j)
      work[static_cast<size_t>(row * columns + j)] = plain[static_cast<size_t>(feedback.order[static_cast<size_t>(j)])];
    if (!options.by_size) return;
    for (int64_t index = 0; index < groups; ++index)
      grids[static_cast<size_t>(row * groups + index)] =
          fit_grid(options.form, plain.data() + index * group, std::min(group, columns - index * group));
  });
  round_with_feedback(work.data(), rows, columns, block, feedback.factor, [&](const Visit &visit) {
    const int64_t column = feedback.order[static_cast<size_t>(visit.column)];
    Grid &grid = grids[static_cast<size_t>(visit.row * groups + column / group)];
    if (!options.by_size && column % group == 0)
      grid = fit_grid(options.form, visit.began + column, std::min(group, columns - column));
    const double code = grid.code(*visit.current);
    codes[static_cast<size_t>(visit.row * columns + column)] = static_cast<int8_t>(code);
    return grid.value(code);
  });
  for (size_t i = 0; i < grids.size(); ++i) {
    store(options.form.half, grids[i].scale, to.scale, i);
    if (to.offset) store(options.form.half, grids[i].offset, to.offset, i);
  }
  parallel_for(rows, [&](int64_t row) {
    const int8_t *const from = codes.data() + row * columns;
    for (int64_t j = 0; j < columns; ++j)
      to.dequantized[row * columns + j] =
          static_cast<float>(grids[static_cast<size_t>(row * groups + j / group)].value(from[j]));
    pack_row(from, columns, options.nibbles, to.values + row * (options.nibbles ? ceil_divide(columns, 2) : columns));
  });
}

}  // namespace moe::numerics
