// The rules of backend.h for a moe_weight_spec and for the rows that are put into a bank, so that every device refuses
// the same with the same words. All of them throw INVALID_ARGUMENT.
#pragma once
#include <string>

#include "moe/part.h"

namespace moe {

namespace detail {

inline void expect(bool holds, std::string_view argument, const std::string &expected, int64_t received) {
  if (!holds) throw Error(MOE_INVALID_ARGUMENT, argument, expected, std::to_string(received));
}

// Also asked of each value of a bank: its words are only made where they are needed.
inline void expect_in(int64_t value, int64_t low, int64_t high, std::string_view argument, std::string_view what) {
  if (value >= low && value <= high) return;
  expect(false, argument, std::string(what) + " from " + std::to_string(low) + " to " + std::to_string(high), value);
}

// A value of a plain row that is 0 whatever the scale.
inline bool zero_value(int32_t store, const void *row, int64_t index) {
  const auto *bytes = static_cast<const uint8_t *>(row);
  if (store == MOE_I4) return ((bytes[index / 2] >> (index % 2 * 4)) & 15) == 0;
  const int64_t width = dtype_bytes(store, 1);
  for (int64_t i = 0; i < width; ++i) {
    const bool sign = dtype_float(store) && i == width - 1;
    if ((bytes[index * width + i] & (sign ? 0x7f : 0xff)) != 0) return false;
  }
  return true;
}

}  // namespace detail

// How a matrix part of any kind, or a bias, is stored; not its sizes.
inline void check_store(const moe_part &part) {
  using detail::expect;
  const bool quantizable = part.kind == MOE_PART_BASE || part.kind == MOE_PART_ROWS || part.kind == MOE_PART_SPARSE;
  const std::string name(part_names[part.kind]);
  if (part.kind == MOE_PART_BIAS) expect(part.store == MOE_F32, "store", "f32 for a bias", part.store);
  if (dtype_float(part.store) || !quantizable) {
    expect(dtype_float(part.store), "store", "the dtype f32, f16 or bf16 for " + name, part.store);
    expect(part.scale == -1, "scale", "-1: a float store has no scale", part.scale);
    expect(part.offset == -1, "offset", "-1: a float store has no offset", part.offset);
    expect(part.outer == -1, "outer", "-1: a float store has no outer scale", part.outer);
    expect(part.group == 0, "group", "0: a float store has no groups", part.group);
    return;
  }
  expect(integer_store(part.store), "store", "the dtype f32, f16, bf16, i8 or i4", part.store);
  expect(part.group == 0 || part.group == 32 || part.group == 64 || part.group == 128, "group", "0, 32, 64 or 128",
         part.group);
  if (part.outer != -1) {
    expect(part.outer == MOE_F16 || part.outer == MOE_F32, "outer", "-1, or the dtype f16 or f32", part.outer);
    expect(part.kind == MOE_PART_BASE && part.store == MOE_I4, "outer", "-1 but for a base of i4", part.outer);
    expect(part.scale == MOE_I8, "scale", "the dtype i8 under an outer scale", part.scale);
    expect(part.offset == -1, "offset", "-1 under an outer scale", part.offset);
    expect(part.group != 0, "group", "32, 64 or 128 under an outer scale", part.group);
    return;
  }
  expect(part.scale == MOE_F16 || part.scale == MOE_F32, "scale", "the dtype f16 or f32", part.scale);
  expect(part.offset == -1 || part.offset == part.scale, "offset", "-1 or the dtype of scale", part.offset);
  expect(part.kind != MOE_PART_SPARSE || part.offset == -1, "offset", "-1: a sparse part is symmetric", part.offset);
}

// n, m, size and ragged of a part.
inline void check_sizes(const moe_part &part, int32_t slots) {
  using detail::expect_in;
  if (part.kind == MOE_PART_SPARSE) {
    expect_in(part.m, 2, 256, "m", "inputs of a block");
    expect_in(part.n, 1, part.m - 1, "n", "kept inputs of a block of " + std::to_string(part.m));
    detail::expect(part.group % part.m == 0, "m", "a divisor of the group " + std::to_string(part.group), part.m);
  } else {
    detail::expect(part.n == 0 && part.m == 0, "n", "0 but for a sparse part", part.n);
  }
  const bool sized = part.kind == MOE_PART_FACTOR_IN || part.kind == MOE_PART_FACTOR_OUT || part.kind == MOE_PART_ROWS;
  if (!sized) {
    detail::expect(part.size == 0 && part.ragged == nullptr, "size", "0 but for factors and rows", part.size);
    return;
  }
  expect_in(part.size, 1, int64_t{1} << 30, "size", "a rank or count");
  for (int32_t s = 0; part.ragged != nullptr && s < slots; ++s)
    expect_in(part.ragged[s], 0, part.size, "ragged", "ranks or counts");
}

// Widths, kinds and how they go together.
inline void check_weight_spec(const moe_weight_spec &spec) {
  using detail::expect, detail::expect_in;
  constexpr int64_t most = int64_t{1} << 40;  // of one width; products are checked where they are made
  expect_in(spec.in, 1, most, "in", "a width");
  expect_in(spec.out, 1, most, "out", "a width");
  expect(spec.slots >= 1, "slots", "at least 1", spec.slots);
  expect(spec.gated == 0 || spec.gated == 1, "gated", "0 or 1", spec.gated);
  expect(spec.gated == 0 || spec.out % 2 == 0, "out", "an even width of a gated bank", spec.out);
  expect_in(spec.part_count, 1, 6, "parts", "parts");
  if (spec.parts == nullptr) throw Error(MOE_INVALID_ARGUMENT, "parts", "parts", "NULL");
  const moe_part *found[6] = {};
  for (int32_t i = 0; i < spec.part_count; ++i) {
    const moe_part &part = spec.parts[i];
    expect_in(part.kind, MOE_PART_BASE, MOE_PART_SPARSE, "parts", "kinds");
    expect(found[part.kind] == nullptr, "parts", "each kind once", part.kind);
    found[part.kind] = &part;
    check_store(part);
    check_sizes(part, spec.slots);
    expect(part.kind != MOE_PART_ROWS || part.size <= spec.out, "size", "at most one kept row an output", part.size);
  }
  const moe_part *base = found[MOE_PART_BASE], *in = found[MOE_PART_FACTOR_IN], *out = found[MOE_PART_FACTOR_OUT];
  expect(base || in || found[MOE_PART_ROWS] || found[MOE_PART_SPARSE], "parts", "a matrix part", spec.part_count);
  expect((in == nullptr) == (out == nullptr), "parts", "both factors or none", spec.part_count);
  if (in != nullptr) expect(in->size == out->size, "size", "the same rank in both factors", out->size);
  for (int32_t s = 0; in != nullptr && s < spec.slots; ++s)
    expect(part_size(*in, s) == part_size(*out, s), "ragged", "the same ranks in both factors", part_size(*out, s));
  for (int32_t s = 0; s < spec.slots; ++s) {
    const int64_t slot_out = spec.out_of == nullptr ? spec.out : spec.out_of[s];
    if (spec.in_of != nullptr) expect_in(spec.in_of[s], 0, spec.in, "inOf", "widths");
    expect_in(slot_out, 0, spec.out, "outOf", "widths");
    expect(spec.gated == 0 || slot_out % 2 == 0, "outOf", "even widths of a gated bank", slot_out);
    if (const moe_part *rows = found[MOE_PART_ROWS])
      expect_in(part_size(*rows, s), 0, slot_out, "ragged", "counts of kept rows");
  }
  if (spec.base_of == nullptr) return;
  expect(base != nullptr, "baseOf", "nothing where there is no base", spec.base_slots);
  expect(spec.in_of == nullptr && spec.out_of == nullptr, "baseOf", "nothing where widths differ", spec.base_slots);
  expect_in(spec.base_slots, 1, spec.slots, "baseSlots", "base matrices");
  for (int32_t s = 0; s < spec.slots; ++s) expect_in(spec.base_of[s], 0, spec.base_slots - 1, "baseOf", "base slots");
}

// The places of a SPARSE part, and the codes under an outer scale; `columns` as part_columns gives for inputs `in`.
inline void check_plain(const moe_part &part, int64_t in, int64_t columns, int64_t rows, const moe_plain &plain) {
  const RowBytes each = row_bytes(part, columns);
  const auto row_of = [](const void *from, int64_t row, int64_t bytes) {
    return static_cast<const uint8_t *>(from) + row * bytes;
  };
  for (int64_t r = 0; part.kind == MOE_PART_SPARSE && r < rows; ++r) {
    const uint8_t *places = row_of(plain.index, r, each.index);
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t low = j % part.n == 0 ? 0 : places[j - 1] + 1;
      detail::expect_in(places[j], low, part.m - 1, "index", "a place among the inputs of a block, ascending,");
      if (j / part.n * part.m + places[j] >= in &&
          !detail::zero_value(part.store, row_of(plain.values, r, each.values), j))
        throw Error(MOE_INVALID_ARGUMENT, "values", "0 at a place past the inputs", "another value");
    }
  }
  for (int64_t r = 0; part.outer >= 0 && r < rows; ++r) {
    const auto *inner = static_cast<const int8_t *>(plain.scale) + r * each.scale;
    for (int64_t k = 0; k < columns; ++k) {
      const int scale = inner[k / part.group];
      detail::expect_in(scale, 1, 127, "scale", "inner scales");
      detail::expect_in(scale * code_of(part.store, row_of(plain.values, r, each.values), k), -127, 127, "values",
                        "inner scale times code");
    }
  }
}

// The whole index of a slot of ROWS.
inline void check_kept_rows(const int32_t *index, int64_t count, int64_t out) {
  for (int64_t i = 0; i < count; ++i)
    detail::expect_in(index[i], i == 0 ? 0 : int64_t{index[i - 1]} + 1, out - 1, "index", "ascending output rows");
}

}  // namespace moe
