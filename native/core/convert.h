// Host rows of a weight from one plain form to another: between float dtypes, dequantization, and quantization by round
// to nearest. A form is a moe_part (backend.h) of any kind but its sizes; the plain layout is that of moe_plain. Columns
// are values of a row: of a SPARSE part the kept ones. An index is not converted.
//
// Quantized: w[n, k] = scale[n, k / group] · code[n, k] − offset[n, k / group], or outer[n] · scale[n, k / group] ·
// code[n, k].
//   I8 code: one byte, −128 … 127. I4 code: two's complement nibble, −8 … 7, even k in the low half of byte k / 2.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "moe/part.h"

namespace moe {

// A form from the words of JavaScript, of kind BASE. store 'f32' … 'i4'; scale "" means the default (f32 for i8, f16 for
// i4; i8 under an outer scale); float stores take neither scale, offset, group nor outer. outer "": none.
// INVALID_ARGUMENT naming e.g. "form.group".
moe_part make_form(std::string_view argument, std::string_view store, std::string_view scale, bool offset, double group,
                   std::string_view outer = "");
// Whether rows of one are rows of the other.
bool same_form(const moe_part &a, const moe_part &b);

// Where converted rows are written; scale, offset and outer are null where the form has none.
struct PlainTarget {
  void *values, *scale, *offset, *outer = nullptr;
};

// Storage for converted rows, reused from call to call.
struct PlainRows {
  std::vector<std::byte> values, scale, offset, outer;
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
