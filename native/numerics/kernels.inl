// Kernels over vectors of `lanes` doubles, compiled once an instruction set. The including file gives MOE_SET (the
// namespace), MOE_LANES, MOE_TILE_ROWS and MOE_TILE_VECTORS. Layout of a tile: rows broadcast from a, vectors from b;
// MOE_TILE_ROWS × MOE_TILE_VECTORS sums stay in registers. Bound: multiply-adds for tiles, loads for the rest. Nothing
// but builtins is called, so that no inline function of a header is compiled for the wrong set.
#include <cstdint>

#include "numerics/kernels.h"

namespace moe::numerics::MOE_SET {
namespace {

constexpr int64_t lanes = MOE_LANES, tile_rows = MOE_TILE_ROWS, tile_vectors = MOE_TILE_VECTORS;
constexpr int64_t tile_columns = tile_vectors * lanes;
static_assert(tile_rows * tile_columns <= most_tile_elements);
using Vector = double __attribute__((vector_size(MOE_LANES * 8), aligned(8), may_alias));

inline const Vector &at(const double *from) { return *reinterpret_cast<const Vector *>(from); }
inline Vector &at(double *to) { return *reinterpret_cast<Vector *>(to); }

void multiply_tile(const double *a, const double *b, int64_t depth, double sign, double *to, int64_t stride) {
  Vector sums[tile_rows][tile_vectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[tile_vectors];
#pragma GCC unroll 8
    for (int64_t v = 0; v < tile_vectors; ++v) right[v] = at(b + k * tile_columns + v * lanes);
#pragma GCC unroll 16
    for (int64_t u = 0; u < tile_rows; ++u) {
      const double left = a[k * tile_rows + u];
#pragma GCC unroll 8
      for (int64_t v = 0; v < tile_vectors; ++v) sums[u][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int64_t u = 0; u < tile_rows; ++u)
#pragma GCC unroll 8
    for (int64_t v = 0; v < tile_vectors; ++v) at(to + u * stride + v * lanes) += sign * sums[u][v];
}

double dot(const double *x, const double *y, int64_t count) {
  Vector sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes)
#pragma GCC unroll 4
    for (int64_t v = 0; v < 4; ++v) sums[v] += at(x + i + v * lanes) * at(y + i + v * lanes);
  for (; i + lanes <= count; i += lanes) sums[0] += at(x + i) * at(y + i);
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) sum += all[lane];
  for (; i < count; ++i) sum += x[i] * y[i];
  return sum;
}

double sum_maxima(const double *x, const double *y, int64_t count) {
  Vector sums[2] = {};
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes)
#pragma GCC unroll 2
    for (int64_t v = 0; v < 2; ++v) {
      const Vector one = at(x + i + v * lanes), other = at(y + i + v * lanes);
      sums[v] += one > other ? one : other;
    }
  const Vector all = sums[0] + sums[1];
  double sum = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) sum += all[lane];
  for (; i < count; ++i) sum += x[i] > y[i] ? x[i] : y[i];
  return sum;
}

void add_scaled(double factor, const double *x, double *y, int64_t count) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) at(y + i) += factor * at(x + i);
  for (; i < count; ++i) y[i] += factor * x[i];
}

void rotate_rows(const double *cosine, const double *sine, int64_t first, int64_t last, double *z, int64_t stride,
                 int64_t columns) {
  constexpr int64_t held = 4;  // vectors of a row that stay in registers from one rotation to the next
  int64_t j = 0;
  for (; j + held * lanes <= columns; j += held * lanes) {
    Vector carried[held];
#pragma GCC unroll 4
    for (int64_t v = 0; v < held; ++v) carried[v] = at(z + last * stride + j + v * lanes);
    for (int64_t i = last - 1; i >= first; --i) {
      const double c = cosine[i - first], s = sine[i - first];
      double *row = z + i * stride + j;
#pragma GCC unroll 4
      for (int64_t v = 0; v < held; ++v) {
        const Vector upper = at(row + v * lanes);
        at(row + stride + v * lanes) = s * upper + c * carried[v];
        carried[v] = c * upper - s * carried[v];
      }
    }
#pragma GCC unroll 4
    for (int64_t v = 0; v < held; ++v) at(z + first * stride + j + v * lanes) = carried[v];
  }
  for (; j < columns; ++j) {
    double carried = z[last * stride + j];
    for (int64_t i = last - 1; i >= first; --i) {
      const double upper = z[i * stride + j];
      const double c = cosine[i - first], s = sine[i - first];
      z[(i + 1) * stride + j] = s * upper + c * carried;
      carried = c * upper - s * carried;
    }
    z[first * stride + j] = carried;
  }
}

}  // namespace

const Kernels kernels{tile_rows, tile_columns, multiply_tile, dot, sum_maxima, add_scaled, rotate_rows};

}  // namespace moe::numerics::MOE_SET
