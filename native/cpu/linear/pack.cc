// Layout: in, plain rows as backend.h draws them; out, tile.h.
// Bound: memory, one read of the row and one scattered write of its lane of a tile.
#include "linear/pack.h"

#include <algorithm>
#include <cstring>

#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/part.h"

namespace moe::cpu {
namespace {

// The value of a row that element `index` of its padded groups holds; −1: padding.
int64_t value_at(const Matrix &matrix, int64_t index) {
  const int64_t padded = matrix.padded_group(), within = index % padded;
  const int64_t value = index / padded * (matrix.group ? matrix.group : padded) + within;
  return value < matrix.in && (matrix.group == 0 || within < matrix.group) ? value : -1;
}

int64_t line_bytes(const Matrix &matrix, int64_t values) { return dtype_bytes(matrix.store, values * tile_outputs); }

// Four codes of a row into the lane of a step: at its byte, or in half of each byte.
void put_codes(const Matrix &matrix, std::byte *lane, bool high, const std::byte *values, const int64_t (&index)[4]) {
  for (int j = 0; j < 4; ++j) {
    const int code = index[j] < 0 ? 0 : code_of(matrix.store, values, index[j]);
    if (matrix.store == MOE_I4) {
      lane[j] |= static_cast<std::byte>((code + 8) << (high ? 4 : 0));
    } else {
      lane[j] = static_cast<std::byte>(code + 128);
    }
  }
}

void put_integers(const Matrix &matrix, std::byte *to, int lane, const moe_plain &row) {
  const bool dual = matrix.outer >= 0;
  const int64_t groups = matrix.groups(), padded = matrix.padded_group();
  const int64_t value_bytes = dtype_bytes(matrix.scale, 1);
  const auto *const scale = static_cast<const std::byte *>(row.scale);
  const auto *const offset = static_cast<const std::byte *>(row.offset);
  const auto *const values = static_cast<const std::byte *>(row.values);
  const auto put = [&](const std::byte *from, int64_t bytes) {  // one of a row of 32
    std::memcpy(to + lane * bytes, from, static_cast<size_t>(bytes));
    to += tile_outputs * bytes;
  };
  if (dual) {
    put(static_cast<const std::byte *>(row.outer), dtype_bytes(matrix.outer, 1));
    std::byte *const scales = to;
    for (int64_t g = 0; g < groups; ++g) put(scale + g, 1);
    to = scales + align_up(groups * tile_outputs);
  }
  for (int64_t g = 0; g < groups; ++g) {
    if (!dual) {
      put(scale + g * value_bytes, value_bytes);
      if (matrix.offset >= 0) put(offset + g * value_bytes, value_bytes);
    }
    const int64_t begin = g * padded, end = std::min(matrix.padded, begin + padded);
    for (int64_t k = begin; k < end; k += 4) {
      const int64_t index[4] = {value_at(matrix, k), value_at(matrix, k + 1), value_at(matrix, k + 2),
                                value_at(matrix, k + 3)};
      const int64_t step = matrix.store == MOE_I4 ? (k - begin) / 8 : (k - begin) / 4;
      put_codes(matrix, to + step * tile_outputs * 4 + lane * 4, (k - begin) % 8 != 0, values, index);
    }
    to += line_bytes(matrix, end - begin);
  }
}

template <typename Element>
void put_floats(const Matrix &matrix, std::byte *to, int lane, const void *values) {
  const auto *const from = static_cast<const std::byte *>(values);
  for (int64_t k = 0; k < matrix.in; ++k) {
    std::memcpy(to + (k * tile_outputs + lane) * static_cast<int64_t>(sizeof(Element)),
                from + k * static_cast<int64_t>(sizeof(Element)), sizeof(Element));
  }
}

int32_t bits_of(int32_t m) { return m <= 4 ? 2 : m <= 16 ? 4 : 8; }

}  // namespace

Place place_of(int64_t row, int64_t gated_columns) {
  if (gated_columns == 0) return {row / tile_outputs, static_cast<int>(row % tile_outputs)};
  constexpr int half = tile_outputs / 2;
  const bool up = row >= gated_columns;
  const int64_t column = up ? row - gated_columns : row;
  return {column / half, static_cast<int>(column % half) + (up ? half : 0)};
}

Matrix shape_matrix(const moe_part &part, int64_t columns, int64_t rows, bool gated) {
  Matrix matrix;
  matrix.in = columns;
  matrix.store = part.store;
  matrix.scale = part.scale;
  matrix.offset = part.offset;
  matrix.outer = part.outer;
  matrix.group = group_values(part);
  const int64_t last = matrix.group ? columns % matrix.group : columns;
  matrix.padded = (matrix.group ? columns / matrix.group * matrix.padded_group() : 0) + align_up(last, 8);
  matrix.tile_count = gated ? ceil_divide(rows / 2, tile_outputs / 2) : ceil_divide(rows, tile_outputs);
  const int64_t lines = checked_multiply(matrix.integer() ? matrix.padded : columns, tile_outputs * 4, "in") / 4;
  int64_t head = 0;
  if (matrix.outer >= 0) {
    head = tile_outputs * dtype_bytes(matrix.outer, 1) + align_up(matrix.groups() * tile_outputs);
  } else if (matrix.integer()) {
    head = matrix.groups() * tile_outputs * dtype_bytes(matrix.scale, 1) * (matrix.offset >= 0 ? 2 : 1);
  }
  matrix.tile_bytes = head + dtype_bytes(matrix.store, lines);
  return matrix;
}

Sparse shape_sparse(const moe_part &part, int64_t in, int64_t rows, bool gated) {
  Sparse sparse;
  sparse.values = shape_matrix(part, checked_multiply(ceil_divide(in, part.m), part.n, "in"), rows, gated);
  // Whole steps of four can be read, of floats too.
  if (!sparse.values.integer()) sparse.values.tile_bytes = dtype_bytes(part.store, sparse.values.padded * tile_outputs);
  sparse.in = in;
  sparse.n = part.n;
  sparse.m = part.m;
  sparse.group = part.group;
  sparse.place_bits = bits_of(part.m);
  sparse.place_bytes = align_up(sparse.values.padded, 32 / sparse.place_bits) * tile_outputs * sparse.place_bits / 8;
  // Four values from a multiple of 4 on lie in one block, or in as many as they can touch.
  const int32_t blocks = part.n % 4 == 0 ? 1 : part.n == 1 ? 4 : 2;
  sparse.reach = blocks * part.m;
  return sparse;
}

void pack_row(const Matrix &matrix, std::byte *tiles, Place place, const moe_plain &row) {
  std::byte *const to = tiles + place.tile * matrix.tile_bytes;
  if (matrix.integer()) return put_integers(matrix, to, place.lane, row);
  if (matrix.store == MOE_F32) return put_floats<float>(matrix, to, place.lane, row.values);
  put_floats<uint16_t>(matrix, to, place.lane, row.values);
}

void pack_places(const Sparse &sparse, std::byte *places, Place place, const uint8_t *row) {
  const int64_t each = 32 / sparse.place_bits;  // values of a step
  std::byte *const to = places + place.tile * sparse.place_bytes + place.lane * 4;
  for (int64_t k = 0; k < sparse.values.padded; ++k) {
    const int64_t value = value_at(sparse.values, k);
    if (value < 0) continue;
    const int64_t within = k % each;
    to[k / each * tile_outputs * 4 + within % 4] |=
        static_cast<std::byte>(row[value] << (within / 4 * sparse.place_bits));
  }
}

void fill_blocks(const moe_part &part, const Sparse &sparse, int32_t *tables) {
  const Matrix &values = sparse.values;
  int32_t *const blocks = tables, *const spread = tables + values.padded;
  for (int64_t k = 0; k < values.padded; ++k) {
    const int64_t value = value_at(values, k);
    blocks[k] = value < 0 ? 0 : static_cast<int32_t>(value / part.n * part.m);
  }
  for (int64_t k = 0; k < values.padded; k += 4) {
    uint32_t bytes = 0;
    for (int j = 1; j < 4; ++j) {
      const int32_t distance = std::max(0, blocks[k + j] - blocks[k]);
      bytes |= static_cast<uint32_t>(std::min(distance, 255)) << (8 * j);
    }
    spread[k / 4] = static_cast<int32_t>(bytes);
  }
}

}  // namespace moe::cpu
