// What every linear kernel takes: products to add up, and what happens to a sum before it is stored.
//
// y[r, n] = activation(Σ_segments rows[r]·Wᵀ + t[r]·Bᵀ + partial + kept + bias) + residual. All segments have one form
// of rows and one store; low-rank factors beside a base are `low_rank`, which every kernel adds to the same registers
// (low_rank.h).
#pragma once
#include "linear/packed.h"
#include "linear/rows.h"

namespace moe::cuda {

struct Segment {
  PackedView weight;
  Rows rows;
  int32_t gathered;  // row r of the routing reads row token_of[r] of `rows`; else row r
};

// B of low-rank factors, in floats, under t = x·Aᵀ.
struct LowRankSegment {
  PackedView weight;  // not present: none
  Place t;            // f32 [row_capacity, stride]; columns past a slot's own rank are zeros
  int32_t stride;     // a multiple of 16
};

struct LinearArguments {
  static constexpr int most_segments = 3;
  Segment segment[most_segments];
  int32_t segments;
  LowRankSegment low_rank;

  Place token_of, offsets;  // of a routing; absent: one slot, all rows
  int32_t slots;
  int64_t row_capacity;  // rows of y at the most

  const float *bias;            // packed order of the outputs, or null
  const PackedSlot *row_slots;  // of the bank's outputs: where a slot's biases begin and how many rows are its own

  // What another launch has summed, in packed order of the outputs: f32 [row_capacity, 16 · panels]; absent: none.
  Place partial;

  // Whole rows that were kept: y[r, n] += kept_values[r, kept_of[s · 16 · panels + packed row of n]], −1: none.
  Place kept_values;  // f32 [row_capacity, kept_stride]
  const int32_t *kept_of;
  int32_t kept_stride;

  int32_t activation;  // moe_activation
  Place residual, y;
  int64_t columns;  // of y; those past a slot's own are written as zeros
  int32_t panels;   // of the widest slot, and of y: ceil(columns / 16), or / 8 where gated

  // Codes of y, for the next product (quantize.h); no data: nobody reads y so.
  Rows rows_of_y;
};

// What a launch is planned by, at the largest sizes.
struct LinearPlan {
  int64_t matrix_bytes = 0;    // packed, all segments of a slot; the mean of the slots
  int64_t row_operations = 0;  // a row of y
  int64_t output_bytes = 0;    // y written, a residual read
};

}  // namespace moe::cuda
