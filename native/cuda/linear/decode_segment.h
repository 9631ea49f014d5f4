// One segment's product with a panel, for the few rows of a row block: what a warp of the decode kernel does.
//
// The warps of a panel take units of 64 columns in turn, in pairs. A warp has its next units under way in registers; rows lie
// in shared memory, `staged_units` at a time, and the next ones are under way too. Sums of a group are exact products of codes
// and are scaled in f32. Columns of a product that stand for rows which the row block does not have hold anything; nobody reads
// them.
#pragma once
#include "kernel/reduce.h"
#include "linear/row_blocks.h"
#include "linear/scales.h"
#include "linear/weight_fragment.h"

namespace moe::cuda {

inline constexpr int decode_warps = 8, decode_threads = decode_warps * warp_lanes;

struct DecodeArguments {
  LinearArguments linear;
  int32_t panel_warps;   // panels of a thread block; warps of a panel: decode_warps / panel_warps
  int32_t staged_units;  // of the rows at a time: a multiple of 2 · most ring_units · warps of a panel
  int32_t staged_rows;   // of a row block at the most
  int32_t buffer_bytes;  // of the staged rows, and of their steps and sums
  int32_t buffers;       // 1: all columns fit at once
};

// Units that a warp has under way.
inline constexpr int most_ring_units = 4;
template <int store>
inline constexpr int ring_units = store == MOE_I4    ? most_ring_units
                                  : store == MOE_F32 ? 1
                                                     : 2;

// Bytes of a staged row: padded so that the rows of an 8 × 16-byte matrix lie in different banks.
__host__ __device__ constexpr int staged_stride(RowForm form, int units) {
  return units * unit_columns * row_element_bytes(form) + 16;
}
// Blocks of a row, with a step or a sum each, that `units` touch at the most.
__host__ __device__ constexpr int staged_blocks(int block, int units) {
  return block >= units * unit_columns ? 1 : units * unit_columns / block;
}
// Of `count` rows in a row block of up to `size`: [plane][row][columns], then steps [size][block], then sums.
__host__ __device__ constexpr int staged_bytes(const Rows &rows, int units, int count, int size) {
  return rows.planes * count * staged_stride(rows.form, units) +
         2 * size * staged_blocks(rows.block, units) * static_cast<int>(sizeof(float));
}

struct DecodeShared {
  SharedArray<int32_t> source;     // [8 · blocks]: source_row of each row
  SharedArray<std::byte> buffers;  // of staged rows
};

template <RowForm form, int store, int blocks>
class DecodeSegment {
  using Fragment = WeightFragment<form, store>;
  using Sum = typename ProductOf<form>::Sum;
  static constexpr int ring = ring_units<store>;
  static constexpr int unit_bytes = unit_columns * row_element_bytes(form);

 public:
  __device__ __forceinline__ DecodeSegment(const Frame *frame, const DecodeArguments &a, const Segment &segment,
                                           const RowBlock &block, int panel, const DecodeShared &shared)
      : frame_(frame), a_(a), segment_(segment), block_(block), shared_(shared) {
    const PackedView &weight = segment.weight;
    const int matrix = weight.slot_of == nullptr ? block.slot : ptx::load(weight.slot_of + block.slot);
    const PackedSlot *const slot = weight.slots + matrix;
    columns_ = ptx::load(&slot->columns);
    groups_ = ptx::load(&slot->groups);
    units_ = ptx::load(&slot->steps) / unit_steps;
    k_warps_ = decode_warps / a.panel_warps;
    k_warp_ = warp_of_thread() % k_warps_;
    own_units_ = panel < ptx::load(&slot->panels) ? units_ : 0;
    const int64_t chunks = static_cast<int64_t>(units_) * Fragment::chunks;
    chunks_ = weight.chunks + (ptx::load(&slot->chunk) + panel * chunks) * warp_lanes + lane_of_thread();
    scale_ = ptx::load(&slot->scale) + static_cast<int64_t>(panel) * groups_ * panel_rows;
    outer_ = ptx::load(&slot->row) + static_cast<int64_t>(panel) * panel_rows;
    group_ = Fragment::integer ? weight.group : 0;
    shift_ = group_ == 32 ? 5 : group_ == 64 ? 6 : 7;
    stride_ = staged_stride(form, a.staged_units);
    width_ = staged_blocks(segment.rows.block, a.staged_units);
  }

  // Adds this warp's share to `total`. All threads of the block take part.
  __device__ __forceinline__ void add_to(float (&total)[blocks][4]) {
    if (units_ == 0) return;  // a slot of rank 0
    uint4 chunk[ring][Fragment::chunks]{};
    uint32_t scale[ring]{}, offset[ring]{};
#pragma unroll
    for (int j = 0; j < ring; ++j) fetch(j, chunk[j], scale[j], offset[j]);
    __syncthreads();  // whoever still reads what an earlier segment staged
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < block_.count)
      ptx::store_shared(&shared_.source[thread],
                        static_cast<int32_t>(source_row(frame_, a_.linear, segment_, block_.first + thread)));
    __syncthreads();
    stage(0);
    const int turns = a_.staged_units / k_warps_;  // units of a warp that are staged at a time
    for (int first = 0, phase = 0; first * k_warps_ < units_; first += turns, ++phase) {
      ptx::copy_async_wait<0>();
      __syncthreads();
      look_at(phase);
      if ((first + turns) * k_warps_ < units_) stage(phase + 1);
      for (int turn = first; turn < first + turns && unit_of(turn) < own_units_; turn += ring) {
#pragma unroll
        for (int j = 0; j < ring; ++j) {
          const int unit = unit_of(turn + j);
          if (unit >= own_units_) break;
          uint4 now[Fragment::chunks];
#pragma unroll
          for (int i = 0; i < Fragment::chunks; ++i) now[i] = chunk[j][i];
          if (Fragment::integer && (unit % 2 == 0 || group_ != 2 * unit_columns)) {
            scale_now_ = scale_of_bits(segment_.weight.scale, scale[j]);
            offset_now_ = scale_of_bits(segment_.weight.scale, offset[j]);
          }
          fetch(turn + j + ring, chunk[j], scale[j], offset[j]);
          consume(unit, now);
        }
      }
    }
    if (own_units_ > 0) finish(total);
  }

 private:
  __device__ __forceinline__ bool by_group() const { return Fragment::integer && group_ > 0; }
  __device__ __forceinline__ bool has_offsets() const {
    return Fragment::integer && segment_.weight.offsets != nullptr;
  }
  __device__ __forceinline__ int unit_of(int turn) const { return 2 * (k_warp_ + k_warps_ * (turn / 2)) + turn % 2; }

  // Asks for a unit; nothing here waits for what was asked.
  __device__ __forceinline__ void fetch(int turn, uint4 (&chunk)[Fragment::chunks], uint32_t &scale,
                                        uint32_t &offset) const {
    const int unit = unit_of(turn);
    if (unit >= own_units_) return;
    const uint4 *const from = chunks_ + static_cast<int64_t>(unit) * Fragment::chunks * warp_lanes;
#pragma unroll
    for (int i = 0; i < Fragment::chunks; ++i) chunk[i] = ptx::load_once(from + i * warp_lanes);
    // A lane a row of the unit's group, or of its two groups of 32. A group of 128 comes with its first unit.
    const PackedView &weight = segment_.weight;
    if (!by_group() || (group_ == 2 * unit_columns && unit % 2 == 1)) return;
    const int first = unit * unit_columns >> shift_, lane = lane_of_thread();
    const int count = min(group_ < unit_columns ? 2 : 1, groups_ - first);
    if (lane >= count * panel_rows) return;
    const int64_t index = scale_ + static_cast<int64_t>(first) * panel_rows + lane;
    scale = scale_bits(weight.scale, weight.scales, index);
    if (has_offsets()) offset = scale_bits(weight.scale, weight.offsets, index);
  }

  // ---- staged rows ------------------------------------------------------------------------------------------------------ //

  __device__ __forceinline__ std::byte *buffer(int phase) const {
    return shared_.buffers.data() + (a_.buffers == 1 ? 0 : phase % 2 * a_.buffer_bytes);
  }
  __device__ __forceinline__ float *steps(int phase) const {
    return reinterpret_cast<float *>(buffer(phase) + segment_.rows.planes * a_.staged_rows * stride_);
  }
  __device__ __forceinline__ float *sums(int phase) const { return steps(phase) + 8 * blocks * width_; }

  // From here on rows are read where this phase has staged them, by their own units and blocks.
  __device__ __forceinline__ void look_at(int phase) {
    const int first = phase * a_.staged_units, lane = lane_of_thread();
    const int first_block = by_group() ? first * unit_columns >> shift_ : 0;
#pragma unroll
    for (int n = 0; n < blocks; ++n)
      rows_now_[n] =
          buffer(phase) + min(8 * n + lane % 8, block_.count - 1) * stride_ + lane / 8 * 16 - first * unit_bytes;
    steps_now_ = steps(phase) + lane % 4 * 2 * width_ - first_block;
    sums_now_ = steps_now_ + 8 * blocks * width_;
  }

  __device__ __forceinline__ void stage(int phase) const {
    const Rows &rows = segment_.rows;
    const int first = phase * a_.staged_units, pieces = min(a_.staged_units, units_ - first) * unit_bytes / 16;
    const std::byte *const data = at<std::byte>(frame_, rows.data) + static_cast<int64_t>(first) * unit_bytes;
    // A warp a row of a plane, or several warps where there are few.
    const int lines = block_.count * rows.planes, split = lines <= 1 ? 8 : lines <= 2 ? 4 : lines <= 4 ? 2 : 1;
    const int warp = warp_of_thread();
    for (int line = warp / split; line < lines; line += decode_warps / split) {
      const int plane = line / block_.count, r = line % block_.count;
      const int64_t row = ptx::load_shared(&shared_.source[r]);
      const std::byte *const from =
          data + (plane * rows.capacity + (row < 0 ? 0 : row)) * rows.stride * row_element_bytes(form);
      std::byte *const to = buffer(phase) + (plane * a_.staged_rows + r) * stride_;
      for (int i = warp % split * warp_lanes + lane_of_thread(); i < pieces; i += split * warp_lanes)
        ptx::copy_async(to + 16 * i, from + 16 * i, row >= 0);
    }
    ptx::copy_async_commit();
    if (form != RowForm::int8 && !has_offsets()) return;
    const int first_block = first * unit_columns / rows.block;
    const int count = min(width_, (columns_ + rows.block - 1) / rows.block - first_block);
    for (int i = static_cast<int>(threadIdx.x); i < block_.count * count; i += decode_threads) {
      const int r = i / count, block = i % count;
      const int64_t row = ptx::load_shared(&shared_.source[r]);
      if (form == RowForm::int8)
        ptx::store_shared(steps(phase) + r * width_ + block, block_step(frame_, rows, row, first_block + block));
      if (has_offsets())
        ptx::store_shared(sums(phase) + r * width_ + block,
                          block_sum(frame_, rows, row, first_block + block, columns_));
    }
  }

  // ---- products ----------------------------------------------------------------------------------------------------------- //

  // 64 bytes of each of eight staged rows, as operands: two steps, or four of codes.
  __device__ __forceinline__ void load_rows(uint32_t (&b)[4], int unit, int block, int plane, int half) const {
    ptx::ldmatrix_x4(b, rows_now_[block] + unit * unit_bytes + plane * a_.staged_rows * stride_ + 64 * half);
  }

  // Whether sums are scaled after this half of a unit.
  __device__ __forceinline__ bool ends(int unit, int half) const {
    if (by_group() && group_ < unit_columns) return 2 * unit + half < groups_;
    if (half == 0) return false;
    if (group_ == unit_columns) return true;
    // Codes without groups are exact until the end. Floats are added up as if in groups of 128, which keeps those sums short
    // that the tensor core cuts off rather than rounds.
    if (form == RowForm::int8 && !by_group()) return false;
    return unit % 2 == 1 || unit + 1 == own_units_;
  }

  __device__ __forceinline__ void consume(int unit, const uint4 (&chunk)[Fragment::chunks]) {
    uint32_t codes[blocks][4];
    if constexpr (form == RowForm::int8) {
#pragma unroll
      for (int block = 0; block < blocks; ++block) load_rows(codes[block], unit, block, 0, 0);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      constexpr int products = 2 / Fragment::steps;  // of a half
      uint32_t a[products][Fragment::planes][4];
#pragma unroll
      for (int i = 0; i < products; ++i) Fragment::unpack(chunk, 2 * half + i, a[i]);
      if constexpr (form == RowForm::int8) {
#pragma unroll
        for (int block = 0; block < blocks; ++block) {
          const uint32_t b[2] = {codes[block][2 * half], codes[block][2 * half + 1]};
          multiply<form>(product_[block], a[0][0], b);
        }
      } else {
#pragma unroll 1
        for (int plane = 0; plane < segment_.rows.planes; ++plane) {
#pragma unroll
          for (int block = 0; block < blocks; ++block) {
            uint32_t rows[4];
            load_rows(rows, unit, block, plane, half);
#pragma unroll
            for (int i = 0; i < products; ++i) {
              const uint32_t b[2] = {rows[2 * i], rows[2 * i + 1]};
#pragma unroll
              for (int own = 0; own < Fragment::planes; ++own)
                if (own + plane <= 2) multiply<form>(product_[block], a[i][own], b);
            }
          }
        }
      }
      if (ends(unit, half)) end_group(unit, half);
    }
  }

  // What has come together in `product_` goes to `sum_`.
  __device__ __forceinline__ void end_group(int unit, int half) {
    const int g = lane_of_thread() / 4;
    const int second = group_ == unit_columns / 2 ? half : 0;  // of a unit's two groups
    const bool stepped = form == RowForm::int8 && segment_.weight.outer == nullptr;
    float scale[2] = {1, 1}, offset[2] = {0, 0};
    if (by_group()) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int from = panel_rows * second + g + 8 * i;
        scale[i] = __shfl_sync(whole_warp, scale_now_, from);
        if (has_offsets()) offset[i] = __shfl_sync(whole_warp, offset_now_, from);
      }
    }
    const int block = (unit * unit_columns >> shift_) + second;
#pragma unroll
    for (int n = 0; n < blocks; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float step = stepped && by_group() ? ptx::load_shared(steps_now_ + (8 * n + c) * width_ + block) : 1.0f;
        const float sum =
            has_offsets() && by_group() ? ptx::load_shared(sums_now_ + (8 * n + c) * width_ + block) : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Sum &product = product_[n][c + 2 * i];
          sum_[n][c + 2 * i] += step * (scale[i] * Fragment::whole_sum(product) - offset[i] * sum);
          product = 0;
        }
      }
    }
  }

  // What belongs to a whole row: its scale, offset, step and outer scale. Steps and sums are those of the last phase.
  __device__ __forceinline__ void finish(float (&total)[blocks][4]) {
    const int g = lane_of_thread() / 4;
    const PackedView &weight = segment_.weight;
    const bool offsets = has_offsets() && !by_group() && k_warp_ == 0;  // once, though warps share the row
    const bool stepped = form == RowForm::int8 && (!by_group() || weight.outer != nullptr);
    float scale[2] = {1, 1}, offset[2] = {0, 0};
    if constexpr (Fragment::integer) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = g + 8 * i;
        if (!by_group()) scale[i] = load_scale(weight.scale, weight.scales, scale_ + row);
        if (offsets) offset[i] = load_scale(weight.scale, weight.offsets, scale_ + row);
        if (weight.outer != nullptr) {
          const float outer = ptx::load(weight.outer + outer_ + row);
          scale[i] *= outer;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < blocks; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float step = stepped ? ptx::load_shared(steps_now_ + (8 * n + c) * width_) : 1.0f;
        const float sum = offsets ? ptx::load_shared(sums_now_ + (8 * n + c) * width_) : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float product = sum_[n][c + 2 * i];
          if (form == RowForm::int8 && !by_group()) product = Fragment::whole_sum(product_[n][c + 2 * i]);
          total[n][c + 2 * i] += step * (scale[i] * product - offset[i] * sum);
        }
      }
    }
  }

  const Frame *frame_;
  const DecodeArguments &a_;
  const Segment &segment_;
  const RowBlock &block_;
  const DecodeShared &shared_;
  const uint4 *chunks_;
  int64_t scale_, outer_;
  int columns_, groups_, units_, own_units_, k_warps_, k_warp_;
  int group_, shift_;   // columns of a group, and their logarithm
  int stride_, width_;  // bytes of a staged row; its blocks
  const std::byte *rows_now_[blocks]{};
  const float *steps_now_ = nullptr, *sums_now_ = nullptr;
  float scale_now_ = 1, offset_now_ = 0;
  Sum product_[blocks][4]{};
  float sum_[blocks][4]{};
};

}  // namespace moe::cuda
