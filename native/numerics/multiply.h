// Matrix products in f64 for the other functions here.
#pragma once
#include <cstdint>

namespace moe::numerics {

// A matrix in memory; element [i, j] is data[i·row_stride + j·column_stride].
struct Operand {
  const void *data;
  bool single;  // f32 elements, widened as they are read; else f64
  int64_t row_stride, column_stride;

  static Operand of(const double *data, int64_t row_stride) { return {data, false, row_stride, 1}; }
  static Operand of(const float *data, int64_t row_stride) { return {data, true, row_stride, 1}; }
  Operand transposed() const { return {data, single, column_stride, row_stride}; }
};

enum class Part { whole, lower };  // lower: what lies above the diagonal is not defined afterwards

// to += sign · a·b for a [rows, depth], b [depth, columns], `to` f64 of row distance `stride`. Threaded; the sum of an
// element is the same for any number of threads.
void add_multiply(const Operand &a, const Operand &b, int64_t rows, int64_t columns, int64_t depth, double sign,
                  double *to, int64_t stride, Part part = Part::whole);

// to = a·b, rows of distance `columns`.
void multiply(const Operand &a, const Operand &b, int64_t rows, int64_t columns, int64_t depth, double *to,
              Part part = Part::whole);

// The lower triangle mirrored into the upper.
void mirror_lower(double *a, int64_t n);

}  // namespace moe::numerics
