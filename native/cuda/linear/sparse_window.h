// Rows of x in shared memory, as sparse products read them: a window of columns at a time, the next one under way.
#pragma once
#include <ptx.h>

#include "linear/row_blocks.h"
#include "linear/scales.h"
#include "linear/sparse.h"
#include "linear/weight_fragment.h"

namespace moe::cuda {

// Whether a 16-bit float is an infinity or NaN.
template <RowForm form>
__device__ __forceinline__ bool is_special(uint32_t bits) {
  constexpr uint32_t exponent = form == RowForm::f16 ? 0x7c00u : 0x7f80u;
  return (bits & exponent) == exponent;
}
template <RowForm form>
__device__ __forceinline__ bool has_special(uint32_t pair) {
  return is_special<form>(pair) || is_special<form>(pair >> 16);
}

// [plane][window_rows][window_columns], two windows. Columns of a product that stand for rows behind the staged ones hold
// anything; nobody reads them.
template <RowForm form, int blocks, int threads>
class RowWindow {
 public:
  __device__ __forceinline__ RowWindow(const Frame *frame, const SparsePart &sparse, std::byte *buffer,
                                       const int32_t *source)
      : frame_(frame), sparse_(sparse), buffer_(buffer), source_(source) {}

  __device__ __forceinline__ const Rows &rows() const { return sparse_.segment.rows; }

  // By all threads; what lies past the rows' width is zeros.
  __device__ __forceinline__ void stage(int window) const {
    const Rows &rows = this->rows();
    const std::byte *const data = at<std::byte>(frame_, rows.data);
    for (int plane = 0; plane < rows.planes; ++plane) {
      for_own_pieces([&](int row, int piece) {
        const int64_t source = ptx::load_shared(source_ + row);
        const int64_t column = static_cast<int64_t>(window) * sparse_.window_columns + piece * piece_columns;
        const bool valid = source >= 0 && column < rows.stride;
        const int64_t element = valid ? (plane * rows.capacity + source) * rows.stride + column : 0;
        ptx::copy_async(place(window, plane, row) + piece * 16, data + element * row_element_bytes(form), valid);
      });
    }
    ptx::copy_async_commit();
  }

  // By all threads: waits for the newest window. Where `look` is set, whether it has an infinity or NaN.
  template <bool look>
  __device__ __forceinline__ bool arrive(int window) const {
    ptx::copy_async_wait<0>();
    if constexpr (!look || form == RowForm::int8) {
      __syncthreads();
      return false;
    }
    bool special = false;
    // The first plane has them: the others are what it leaves.
    for_own_pieces([&](int row, int piece) {
      const uint4 pairs = ptx::load_shared(reinterpret_cast<const uint4 *>(place(window, 0, row) + piece * 16));
      special = special || has_special<form>(pairs.x) || has_special<form>(pairs.y) || has_special<form>(pairs.z) ||
                has_special<form>(pairs.w);
    });
    return __syncthreads_or(special ? 1 : 0) != 0;
  }

  // 32 columns of 16-bit floats (64 of bytes) from `column` on, of rows 8 · block …, as operands of products.
  __device__ __forceinline__ void load(int plane, int block, int column, uint32_t (&b)[4]) const {
    const int lane = lane_of_thread();
    ptx::ldmatrix_x4(b, staged(plane, 8 * block + lane % 8, column) + lane / 8 * 16);
  }
  // 8 bytes of row 8 · block + g.
  __device__ __forceinline__ uint2 load_bytes(int block, int column) const {
    return ptx::load_shared(reinterpret_cast<const uint2 *>(staged(0, 8 * block + lane_of_thread() / 4, column)));
  }
  // The bits of an element of the first plane.
  __device__ __forceinline__ uint16_t element(int row, int column) const {
    return ptx::load_shared(reinterpret_cast<const uint16_t *>(staged(0, row, column)));
  }
  // Step of a row for one of its blocks. A plain read: by the assumption of ptx::load_shared the compiler of nvcc 13 takes
  // this for unreachable in kernels that sum a base too, and leaves their products out.
  __device__ __forceinline__ float step(int row, int block) const {
    return block_step(frame_, rows(), source_[row], block);
  }

 private:
  static constexpr int piece_columns = 16 / row_element_bytes(form);

  template <class Use>
  __device__ __forceinline__ void for_own_pieces(const Use &use) const {
    const int pieces = sparse_.window_columns / piece_columns;
    for (int i = static_cast<int>(threadIdx.x); i < sparse_.window_rows * pieces; i += threads)
      use(i / pieces, i % pieces);
  }
  __device__ __forceinline__ std::byte *place(int window, int plane, int row) const {
    return buffer_ + window % 2 * sparse_.buffer_bytes + (plane * sparse_.window_rows + row) * sparse_.window_stride;
  }
  __device__ __forceinline__ const std::byte *staged(int plane, int row, int column) const {
    const int window = column / sparse_.window_columns;
    return place(window, plane, min(row, sparse_.window_rows - 1)) +
           (column - window * sparse_.window_columns) * row_element_bytes(form);
  }

  const Frame *frame_;
  const SparsePart &sparse_;
  std::byte *buffer_;
  const int32_t *source_;
};

template <RowForm form, int blocks>
struct SparseSums {
  float (&total)[blocks][4];
  typename ProductOf<form>::Sum product[blocks][4]{};

  // What has come together in `product` of group `group`, scaled for rows g and g + 8; `shift`: bits by which codes
  // were too large.
  template <class Window>
  __device__ __forceinline__ void end_group(const Window &rows, int group, float low, float high, int shift = 0) {
    const int q = lane_of_thread() % 4;
#pragma unroll
    for (int n = 0; n < blocks; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float step = 1;
        if constexpr (form == RowForm::int8) step = rows.step(8 * n + 2 * q + c, group);
        total[n][c] += step * (low * whole(product[n][c], shift));
        total[n][c + 2] += step * (high * whole(product[n][c + 2], shift));
        product[n][c] = product[n][c + 2] = 0;
      }
    }
  }

 private:
  __device__ __forceinline__ static float whole(float sum, int) { return sum; }
  __device__ __forceinline__ static float whole(int32_t sum, int shift) { return static_cast<float>(sum >> shift); }
};

}  // namespace moe::cuda
