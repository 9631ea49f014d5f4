// Plain rows into tiles, one row at a time (tile.h draws the layouts).
#pragma once
#include <cstdint>

#include "linear/tile.h"
#include "moe/backend.h"

namespace moe::cpu {

// Where a row lies: its tile and its place in it.
struct Place {
  int64_t tile;
  int lane;
};
// `columns`: of y, where gate and up rows share tiles; 0: rows lie in order.
Place place_of(int64_t row, int64_t gated_columns);

// The shape of a part of `columns` values in `rows` rows; `tiles` is left null. Throws where its bytes pass an int64.
Matrix shape_matrix(const moe_part &part, int64_t columns, int64_t rows, bool gated);
// The same for a sparse part; the two tables are left null.
Sparse shape_sparse(const moe_part &part, int64_t in, int64_t rows, bool gated);

// One row of the plain form; `tiles` is zeroed memory.
void pack_row(const Matrix &matrix, std::byte *tiles, Place place, const moe_plain &row);
// The places of one row, ascending in each block.
void pack_places(const Sparse &sparse, std::byte *places, Place place, const uint8_t *row);
// Sparse::blocks and Sparse::spread of a part of up to `in` inputs, one behind the other: 5/4 · padded of them.
void fill_blocks(const moe_part &part, const Sparse &sparse, int32_t *tables);

}  // namespace moe::cpu
