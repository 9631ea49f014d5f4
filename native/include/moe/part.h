// What follows from a moe_part: the ordinary ones by name, and the sizes of its plain form (moe_plain of backend.h).
#pragma once
#include <cstdint>
#include <string_view>

#include "moe/backend.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"

namespace moe {

inline constexpr moe_part float_part(int32_t store, int32_t kind = MOE_PART_BASE) {
  return {kind, store, -1, -1, 0, -1, 0, 0, 0, nullptr};
}
inline constexpr moe_part bias_part() { return float_part(MOE_F32, MOE_PART_BIAS); }
inline constexpr moe_part integer_part(int32_t store, int32_t scale, bool offset, int32_t group) {
  return {MOE_PART_BASE, store, scale, offset ? scale : -1, group, -1, 0, 0, 0, nullptr};
}
inline constexpr moe_part dual_part(int32_t store, int32_t outer, int32_t group) {
  return {MOE_PART_BASE, store, MOE_I8, -1, group, outer, 0, 0, 0, nullptr};
}

inline constexpr bool integer_store(int32_t store) { return store == MOE_I8 || store == MOE_I4; }

inline constexpr std::string_view part_names[] = {"base", "bias", "factor in", "factor out", "rows", "sparse"};

// Rank or count of a slot.
inline constexpr int32_t part_size(const moe_part &part, int64_t slot) {
  return part.ragged == nullptr ? part.size : part.ragged[slot];
}

// Rows and columns of a slot of a part, where the slot is [out, in].
inline constexpr int64_t part_rows(const moe_part &part, int64_t slot, int64_t out) {
  if (part.kind == MOE_PART_FACTOR_IN || part.kind == MOE_PART_ROWS) return part_size(part, slot);
  return part.kind == MOE_PART_FACTOR_OUT && part_size(part, slot) == 0 ? 0 : out;
}
inline constexpr int64_t part_columns(const moe_part &part, int64_t slot, int64_t in) {
  switch (part.kind) {
    case MOE_PART_BIAS:
      return 1;
    case MOE_PART_FACTOR_OUT:
      return part_size(part, slot);
    case MOE_PART_SPARSE:
      return ceil_divide(in, part.m) * part.n;
    default:
      return in;
  }
}

// Values of a row that share a scale: in SPARSE the kept ones of a group of dense inputs. 0: all.
inline constexpr int64_t group_values(const moe_part &part) {
  return part.kind == MOE_PART_SPARSE ? int64_t{part.group} / part.m * part.n : part.group;
}
// Scales of a row of `columns` values.
inline constexpr int64_t group_count(const moe_part &part, int64_t columns) {
  return part.group == 0 ? 1 : ceil_divide(columns, group_values(part));
}

// Bytes of one plain row; 0 for what the form has not.
struct RowBytes {
  int64_t values, scale, offset, outer, index;
  constexpr int64_t all() const { return values + scale + offset + outer + index; }
};
inline RowBytes row_bytes(const moe_part &part, int64_t columns) {
  const int64_t bits = checked_multiply(columns, dtypes[static_cast<size_t>(part.store)].bits, "columns");
  const int64_t groups = group_count(part, columns);
  return {ceil_divide(bits, 8), part.scale < 0 ? 0 : dtype_bytes(part.scale, groups),
          part.offset < 0 ? 0 : dtype_bytes(part.offset, groups), part.outer < 0 ? 0 : dtype_bytes(part.outer, 1),
          part.kind == MOE_PART_ROWS     ? 4
          : part.kind == MOE_PART_SPARSE ? columns
                                         : 0};
}

// Code `index` of a plain row of an integer store.
inline int code_of(int32_t store, const void *row, int64_t index) {
  if (store == MOE_I8) return static_cast<const int8_t *>(row)[index];
  const int nibble = (static_cast<const uint8_t *>(row)[index / 2] >> (index % 2 * 4)) & 15;
  return nibble < 8 ? nibble : nibble - 16;
}

}  // namespace moe
