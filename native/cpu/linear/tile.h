// One slot of a packed bank, as the kernels stream it: up to five matrices, of which all but A and the kept rows have
// the slot's outputs.
//
// A matrix is a run of tiles, a tile is 32 outputs (gated: 16 gate outputs, then the 16 up outputs of the same columns;
// A and kept rows are never gated), every tile and every line 64-byte aligned:
//
//   f32, f16, bf16   [in][32] elements
//   I8, I4           for each group of inputs:  scale[32] | offset[32] (if there are offsets) | lines of the group's inputs
//                    (channel groups: one group, the whole row; groups padded to a multiple of 8 with code 0)
//   dual-grained     outer[32] | scale i8 [groups][32], up to a multiple of 64 bytes | lines of all groups
//
//   one line = 16 outputs, 64 bytes; two lines (outputs 0–15, then 16–31) a step
//
//     I8, step of 4 inputs          byte    0        1        2        3     |  4 …  7   |      | 60 … 63
//                                         n0,k+0   n0,k+1   n0,k+2   n0,k+3  | n1,k+0…3  |  …   | n15,k+0…3      code + 128
//
//     I4, step of 8 inputs          byte    0            1            2            3       |  4 …  7        |  …
//                              low bits   n0,k+0       n0,k+1       n0,k+2       n0,k+3    | n1,k+0…k+3     |        code + 8
//                             high bits   n0,k+4       n0,k+5       n0,k+6       n0,k+7    | n1,k+4…k+7     |
//
// so that a 32-bit lane holds 4 inputs of one output: the operand of vpdpbusd. Outputs past the slot's own width have
// scale 0.
//
// The values of a sparse part are such a matrix whose "inputs" are the kept ones of a row, ceil(in / m)·n of them (floats
// are padded to a multiple of 8 as well); their places lie apart, in 2, 4 or 8 bits (m ≤ 4, 16, 256), tile for tile:
//
//     step of 16, 8 or 4 values     byte j of output n's lane: bits [b·i, b·i + b) are the place of value k + 4i + j
//
// Biases: f32, in tile order. Index of kept rows: i32, ascending.
#pragma once
#include <cstddef>
#include <cstdint>

#include "moe/backend.h"

namespace moe::cpu {

inline constexpr int tile_outputs = 32;
// Tiles of such a run: 4 KB of a row of y, whose part of B stays in the second-level cache.
inline constexpr int64_t most_added_run = 32, added_run_bytes = 256 << 10;
inline constexpr int64_t channel_run = 65536;  // inputs whose 255·128 products still fit an int32 sum

struct Matrix {
  const std::byte *tiles = nullptr;  // null: the slot has no such part
  int64_t in = 0;                    // values of a row
  int64_t padded = 0;                // the same with every group, or the whole row, up to a multiple of 8
  int64_t tile_count = 0, tile_bytes = 0;
  int32_t store = MOE_F32, scale = -1, offset = -1, outer = -1;
  int64_t group = 0;  // values of a scale; 0: all

  [[gnu::always_inline]] explicit operator bool() const { return tile_count > 0 && in > 0; }
  [[gnu::always_inline]] bool integer() const { return store == MOE_I8 || store == MOE_I4; }
  [[gnu::always_inline]] int64_t run() const { return group ? group : channel_run; }  // values of one integer sum
  [[gnu::always_inline]] int64_t runs() const { return (in + run() - 1) / run(); }
  // Values of a group in memory, and groups.
  [[gnu::always_inline]] int64_t padded_group() const { return group ? (group + 7) / 8 * 8 : padded; }
  [[gnu::always_inline]] int64_t groups() const { return group ? (in + group - 1) / group : (in > 0 ? 1 : 0); }
};

// Values of a row in order, four to a step: step i of a row meets inputs first[i] + spread[i]'s bytes + places.
struct Sparse {
  Matrix values;
  const std::byte *places = nullptr;
  int64_t place_bytes = 0;  // of a tile
  int64_t in = 0;
  int32_t n = 0, m = 0;
  int32_t place_bits = 0;
  int32_t reach = 0;                // inputs that the four values of a step may lie apart
  const int32_t *blocks = nullptr;  // [padded] first input of the block of each value, 0 for padding
  const int32_t *spread = nullptr;  // [padded / 4] a byte for each value of a step: its block's distance from the first
  int64_t group = 0;                // inputs of a scale; 0: all

  // The dense matrix of codes that it stands for, but for its tiles.
  Matrix dense() const {
    Matrix matrix;
    matrix.in = in;
    matrix.padded = (in + 7) / 8 * 8;
    matrix.store = MOE_I8;
    matrix.group = group;
    return matrix;
  }
};

// One slot as kernels see it.
struct Slot {
  Matrix base;
  Matrix shrink, expand;  // A and B
  Matrix kept;
  Sparse sparse;
  const int32_t *kept_index = nullptr;  // [kept_count]
  const float *bias = nullptr;          // [tiles · 32], or null
  int64_t in = 0, out = 0;              // the slot's own widths
  int64_t kept_count = 0;
  int64_t tile_count = 0;
  bool gated = false;

  [[gnu::always_inline]] int64_t columns() const { return gated ? out / 2 : out; }  // of y
  [[gnu::always_inline]] int64_t early_tiles() const { return shrink.tile_count + kept.tile_count; }
  // Nothing but factors and kept rows: then a block of rows meets a run of tiles before the next block does.
  [[gnu::always_inline]] bool only_added() const { return !base && !sparse.values; }
  [[gnu::always_inline]] int64_t added_run() const {
    const int64_t cached = expand.tile_bytes > 0 ? added_run_bytes / expand.tile_bytes : most_added_run;
    return cached < 1 ? 1 : cached < most_added_run ? cached : most_added_run;
  }
  // Multiply-adds of a row and a tile, about.
  [[gnu::always_inline]] int64_t products() const { return (base.in + expand.in + sparse.values.in) * tile_outputs; }
};

}  // namespace moe::cpu
