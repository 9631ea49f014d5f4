// Computes C += ± A·B in f64. Layout: a task owns a rectangle of C and walks the depth in steps of 256; it packs its part
// of B (256 × ≤ 480 doubles, for the second-level cache) and panels of A (tile rows × 256, for the first), widened to
// f64 and padded with zeros. Bound: rows·columns·depth multiply-adds.
#include "numerics/multiply.h"

#include <algorithm>
#include <vector>

#include "moe/checked.h"
#include "numerics/kernels.h"
#include "numerics/parallel.h"

namespace moe::numerics {
namespace {

constexpr int64_t depth_step = 256, most_columns = 480, most_rows = 768;
constexpr int64_t serial_work = 1 << 22;  // multiply-adds below which starting threads costs more than it saves

struct Space {
  std::vector<double> a, b;
};

// panel [depth, width] from the lines 0 … lines − 1 of `from`, whose elements lie `along` apart.
template <typename Element>
void pack(const Element *from, int64_t line_stride, int64_t along, int64_t lines, int64_t depth, int64_t width,
          double *panel) {
  if (line_stride == 1) {
    for (int64_t k = 0; k < depth; ++k, panel += width, from += along) {
      for (int64_t line = 0; line < lines; ++line) panel[line] = static_cast<double>(from[line]);
      for (int64_t line = lines; line < width; ++line) panel[line] = 0;
    }
    return;
  }
  for (int64_t line = 0; line < width; ++line)
    for (int64_t k = 0; k < depth; ++k)
      panel[k * width + line] = line < lines ? static_cast<double>(from[line * line_stride + k * along]) : 0.0;
}

// Panels of `width` lines from line `first`, at depth `start`.
void pack_panels(const Operand &from, int64_t line_stride, int64_t along, int64_t first, int64_t lines, int64_t start,
                 int64_t depth, int64_t width, double *panels) {
  const int64_t offset = first * line_stride + start * along;
  for (int64_t line = 0; line < lines; line += width, panels += width * depth) {
    const int64_t at = offset + line * line_stride, count = std::min(width, lines - line);
    if (from.single)
      pack(static_cast<const float *>(from.data) + at, line_stride, along, count, depth, width, panels);
    else
      pack(static_cast<const double *>(from.data) + at, line_stride, along, count, depth, width, panels);
  }
}

struct Rectangle {
  int64_t row, rows, column, columns;
};

void multiply_rectangle(const Operand &a, const Operand &b, const Rectangle &part, int64_t depth, double sign,
                        double *to, int64_t stride, bool lower) {
  const Kernels &kernel = kernels();
  const int64_t height = kernel.tile_rows, width = kernel.tile_columns;
  thread_local Space space;
  space.b.resize(static_cast<size_t>(std::min(depth_step, depth) * (part.columns + width)));
  space.a.resize(static_cast<size_t>(depth_step * height));
  double *const left = space.a.data(), *const right = space.b.data();
  for (int64_t start = 0; start < depth; start += depth_step) {
    const int64_t count = std::min(depth_step, depth - start);
    pack_panels(b, b.column_stride, b.row_stride, part.column, part.columns, start, count, width, right);
    for (int64_t i = 0; i < part.rows; i += height) {
      const int64_t row = part.row + i, rows = std::min(height, part.rows - i);
      pack_panels(a, a.row_stride, a.column_stride, row, rows, start, count, height, left);
      for (int64_t j = 0; j < part.columns; j += width) {
        const int64_t column = part.column + j, columns = std::min(width, part.columns - j);
        if (lower && column >= row + rows) break;
        double *const tile = to + row * stride + column;
        const double *const panel = right + j * count;
        if (rows == height && columns == width) {
          kernel.multiply_tile(left, panel, count, sign, tile, stride);
          continue;
        }
        double edge[most_tile_elements] = {};
        kernel.multiply_tile(left, panel, count, sign, edge, width);
        for (int64_t u = 0; u < rows; ++u)
          for (int64_t v = 0; v < columns; ++v) tile[u * stride + v] += edge[u * width + v];
      }
    }
  }
}

}  // namespace

void add_multiply(const Operand &a, const Operand &b, int64_t rows, int64_t columns, int64_t depth, double sign,
                  double *to, int64_t stride, Part part) {
  if (rows <= 0 || columns <= 0 || depth <= 0) return;
  const Kernels &kernel = kernels();
  const bool lower = part == Part::lower;
  const int64_t threads = rows * columns <= serial_work / depth ? 1 : thread_count();
  // Rectangles of about equal size, and a whole number of rounds of them where that costs little.
  const int64_t row_pieces = ceil_divide(rows, most_rows);
  int64_t column_pieces = ceil_divide(columns, most_columns);
  while (row_pieces * column_pieces % threads != 0 && row_pieces * column_pieces < 4 * threads) ++column_pieces;
  const int64_t height = align_up(ceil_divide(rows, row_pieces), kernel.tile_rows);
  const int64_t width = align_up(ceil_divide(columns, column_pieces), kernel.tile_columns);
  const auto body = [&](int64_t task) {
    const int64_t row = task / column_pieces * height, column = task % column_pieces * width;
    if (row >= rows || column >= columns) return;
    const Rectangle piece{row, std::min(height, rows - row), column, std::min(width, columns - column)};
    if (lower && piece.column >= piece.row + piece.rows) return;
    multiply_rectangle(a, b, piece, depth, sign, to, stride, lower);
  };
  if (threads == 1)
    for (int64_t task = 0; task < row_pieces * column_pieces; ++task) body(task);
  else
    parallel_for(row_pieces * column_pieces, body);
}

void multiply(const Operand &a, const Operand &b, int64_t rows, int64_t columns, int64_t depth, double *to, Part part) {
  std::fill(to, to + rows * columns, 0.0);
  add_multiply(a, b, rows, columns, depth, 1, to, columns, part);
}

void mirror_lower(double *a, int64_t n) {
  constexpr int64_t block = 32;  // rows and columns that are read and written together, for the caches
  for (int64_t row = 0; row < n; row += block)
    for (int64_t column = 0; column <= row; column += block)
      for (int64_t i = row; i < std::min(row + block, n); ++i)
        for (int64_t j = column; j < std::min(column + block, i); ++j) a[j * n + i] = a[i * n + j];
}

}  // namespace moe::numerics
