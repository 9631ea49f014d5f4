// One slot of a packed bank, as the kernels stream it.
//
// A slot is a run of tiles, a tile is 32 outputs (gated: 16 gate outputs, then the 16 up outputs of the same columns),
// every tile and every line 64-byte aligned:
//
//   f32, f16, bf16   [in][32] elements
//   I8, I4           for each group of inputs:  scale[32] | offset[32] (if there are offsets) | lines of the group's inputs
//                    (channel groups: one group, the whole row; inputs padded to a multiple of 8 with code 0)
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
// Biases: f32, in tile order, one after another behind the tiles of all slots.
#pragma once
#include <cstddef>
#include <cstdint>

#include "moe/backend.h"

namespace moe::cpu {

inline constexpr int tile_outputs = 32;
inline constexpr int64_t channel_run = 65536;  // inputs whose 255·127 products still fit an int32 sum

// One slot as kernels see it.
struct Slot {
  const std::byte *tiles = nullptr;
  const float *bias = nullptr;  // [tiles · 32], or null
  int64_t in = 0, out = 0;      // the slot's own widths
  int64_t padded = 0;           // in, up to a multiple of 8
  int64_t tile_count = 0, tile_bytes = 0;
  int32_t store = MOE_F32, scale = -1, offset = -1;
  int64_t group = 0;  // inputs of a scale; 0: all
  bool gated = false;

  [[gnu::always_inline]] int64_t columns() const { return gated ? out / 2 : out; }    // of y
  [[gnu::always_inline]] int64_t run() const { return group ? group : channel_run; }  // inputs of one integer sum
  [[gnu::always_inline]] int64_t runs() const { return (in + run() - 1) / run(); }
};

}  // namespace moe::cpu
