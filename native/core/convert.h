// Host rows of a weight from one plain form to another: between float dtypes, dequantization, and quantization by round
// to nearest. A form is a moe_part of kind BASE (backend.h); the plain layout is that of moe_plain.
//
// Quantized: w[n, k] = scale[n, k / group] · code[n, k] − offset[n, k / group].
//   I8 code: one byte, −128 … 127. I4 code: two's complement nibble, −8 … 7, even k in the low half of byte k / 2.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "moe/backend.h"

namespace moe {

// A form from the words of JavaScript. store 'f32' … 'i4'; scale "" means the default (f32 for i8, f16 for i4); float
// stores take neither scale, offset nor group. INVALID_ARGUMENT naming e.g. "form.group".
moe_part make_form(std::string_view argument, std::string_view store, std::string_view scale, bool offset,
                   double group);
// INVALID_ARGUMENT where a form is not one that make_form gives.
void check_form(const moe_part &form);
bool same_form(const moe_part &a, const moe_part &b);

// Bytes of one row; scale and offset are 0 where the form has none.
struct RowBytes {
  int64_t values, scale, offset;
};
RowBytes row_bytes(const moe_part &form, int64_t columns);
int64_t group_count(const moe_part &form, int64_t columns);

// Where converted rows are written; scale and offset are null where the form has none.
struct PlainTarget {
  void *values, *scale, *offset;
};

// Storage for converted rows, reused from call to call.
struct PlainRows {
  std::vector<std::byte> values, scale, offset;
};

// Converts `rows` rows. Sources may be unaligned (mapped files). first_row only names the row in errors.
// INVALID_ARGUMENT: a weight that is not finite where it is quantized. UNSUPPORTED: a value, scale or offset too large
// for f16.
void convert_rows(const moe_part &from, const moe_plain &source, const moe_part &to, const PlainTarget &target,
                  int64_t rows, int64_t columns, int64_t first_row = 0);

// The same into `storage`; returns the view to hand to weight_put. Equal forms pass through without a copy where the
// source is aligned for its dtypes.
moe_plain convert_rows(const moe_part &from, const moe_plain &source, const moe_part &to, PlainRows &storage,
                       int64_t rows, int64_t columns, int64_t first_row = 0);

}  // namespace moe
