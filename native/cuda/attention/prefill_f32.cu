// Attention of many tokens a sequence in f32: tiles of 32 or 64 rows by multiply-adds, for whatever dtypes and D the tensor
// cores' form does not take.
//
// Layout: tiles are those of prefill.cu. Queries, keys, values and weights are f32 in shared memory, D padded to `width`
// with zeros. Thread (r, c) of 16 × 16 has rows r, r + 16, … of the tile: of their scores those under keys c and c + 16; of their
// sums columns 4c … 4c + 3 of each 64. Rows of shared memory are longer than their data, so that what the threads of a
// warp touch together lies in different banks.
// A NaN or an infinity among the values reaches only the rows that see its key; tiles of finite values pay one test as they are
// staged.
// Bound: operations, 4·D for each row and visible key, f32 multiply-adds. Share reached: not measured on a GPU yet.
#include "attention/forms.h"
#include "attention/tile.h"
#include "kernel/shared.h"

namespace moe::cuda {

inline constexpr int f32_threads = 256, f32_keys = 32;

template <int width>
inline constexpr size_t f32_shared_bytes =
    sizeof(float) * ((tile_rows + 2 * f32_keys) * (width + 4) + tile_rows * (f32_keys + 16)) +
    f32_keys * sizeof(int64_t);

template <int width>
__global__ void __launch_bounds__(f32_threads, width > 128 ? 1 : 2)
    attention_prefill_f32_kernel(const Frame *frame, AttentionArguments a) {
  constexpr int stride = width + 4, weight_stride = f32_keys + 16, own_rows = tile_rows / 16, quads = width / 64;
  const TileOfRows tile(frame, a);
  if (tile.tokens <= 0) return;
  SharedCutter cutter;
  const SharedArray<float> query = cutter.take<float>(tile_rows * stride);
  const SharedArray<float> keys = cutter.take<float>(f32_keys * stride);
  const SharedArray<float> values = cutter.take<float>(f32_keys * stride);
  const SharedArray<float> weights = cutter.take<float>(tile_rows * weight_stride);
  const SharedArray<int64_t> places = cutter.take<int64_t>(f32_keys);
  const int thread = static_cast<int>(threadIdx.x), r = thread / 16, c = thread % 16;
  const void *const q = at<void>(frame, a.q), *const k_cache = at<void>(frame, a.k_cache);
  const void *const v_cache = at<void>(frame, a.v_cache);
  void *const y = at<void>(frame, a.y);

  bool loaded = false;
  for (uint64_t left = tile.all_tokens(); left != 0;) {
    const TileSequence own(frame, a, tile, __ffsll(static_cast<long long>(left)) - 1);
    left &= ~own.own;
    if (!own.taken) continue;
    if (!loaded)
      for (int i = thread; i < tile_rows * width; i += f32_threads) {
        const int64_t element = tile.element_of(a, i / width);
        const int d = i % width;
        ptx::store_shared(&query[i / width * stride + d],
                          element >= 0 && d < a.size ? load_float(a.q.dtype, q, element + d) : 0.0f);
      }
    loaded = true;
    KeyRange seen[own_rows];
    float sum[own_rows][quads][4], largest[own_rows], weight[own_rows];
#pragma unroll
    for (int row = 0; row < own_rows; ++row) {
      seen[row] = own.seen_by(a, r + 16 * row);
      largest[row] = -INFINITY;
      weight[row] = 0;
#pragma unroll
      for (int n = 0; n < quads; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[row][n][i] = 0;
    }
    for (int key = own.all.begin / f32_keys * f32_keys; key < own.all.end; key += f32_keys) {
      __syncthreads();  // whoever still reads the last keys and weights
      if (thread < f32_keys)
        places[thread] = key + thread >= own.all.begin && key + thread < own.all.end ? own.paged.row(key + thread) : -1;
      __syncthreads();
      bool no_number = false;
#pragma unroll 4
      for (int i = thread; i < f32_keys * width; i += f32_threads) {
        const int d = i % width;
        const int64_t place = places[i / width];
        const bool valid = place >= 0 && d < a.size;
        const int64_t element = place + static_cast<int64_t>(tile.kv_head) * a.size + d;
        ptx::store_shared(&keys[i / width * stride + d], valid ? load_float(a.k_cache.dtype, k_cache, element) : 0.0f);
        const float value = valid ? load_float(a.v_cache.dtype, v_cache, element) : 0.0f;
        ptx::store_shared(&values[i / width * stride + d], value);
        no_number |= !isfinite(value);
      }
      const bool no_numbers = __syncthreads_or(no_number) != 0;

      float score[own_rows][2];
#pragma unroll
      for (int row = 0; row < own_rows; ++row) score[row][0] = score[row][1] = 0;
#pragma unroll 1
      for (int d = 0; d < width; d += 4) {
        float4 key_part[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
          key_part[half] = ptx::load_shared(reinterpret_cast<const float4 *>(&keys[(c + 16 * half) * stride + d]));
#pragma unroll
        for (int row = 0; row < own_rows; ++row) {
          const float4 part = ptx::load_shared(reinterpret_cast<const float4 *>(&query[(r + 16 * row) * stride + d]));
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float &total = score[row][half];
            total = __fmaf_rn(part.x, key_part[half].x, total);
            total = __fmaf_rn(part.y, key_part[half].y, total);
            total = __fmaf_rn(part.z, key_part[half].z, total);
            total = __fmaf_rn(part.w, key_part[half].w, total);
          }
        }
      }
#pragma unroll
      for (int row = 0; row < own_rows; ++row) {
        float highest = largest[row];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          score[row][half] = sees(seen[row], key + c + 16 * half) ? scaled_score(a, score[row][half]) : -INFINITY;
          highest = fmaxf(highest, score[row][half]);
        }
        highest = warp_reduce(highest, Largest{}, 16);
        const float kept = softmax_weight(largest[row], highest);
        largest[row] = highest;
        weight[row] *= kept;
#pragma unroll
        for (int n = 0; n < quads; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[row][n][i] *= kept;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float own_weight = softmax_weight(score[row][half], highest);
          weight[row] += own_weight;
          ptx::store_shared(&weights[(r + 16 * row) * weight_stride + c + 16 * half], own_weight);
        }
      }
      __syncwarp();  // a row's weights are its own warp's
      const auto add_values = [&](auto some_are_no_numbers) {
#pragma unroll 2
        for (int j = 0; j < f32_keys; ++j) {
          float own_weight[own_rows];
#pragma unroll
          for (int row = 0; row < own_rows; ++row)
            own_weight[row] = ptx::load_shared(&weights[(r + 16 * row) * weight_stride + j]);
#pragma unroll
          for (int n = 0; n < quads; ++n) {
            const float4 value =
                ptx::load_shared(reinterpret_cast<const float4 *>(&values[j * stride + 64 * n + 4 * c]));
#pragma unroll
            for (int row = 0; row < own_rows; ++row) {
              if (some_are_no_numbers && !sees(seen[row], key + j)) continue;  // its weight is 0, and 0 · NaN is NaN
              float (&total)[4] = sum[row][n];
              total[0] = __fmaf_rn(own_weight[row], value.x, total[0]);
              total[1] = __fmaf_rn(own_weight[row], value.y, total[1]);
              total[2] = __fmaf_rn(own_weight[row], value.z, total[2]);
              total[3] = __fmaf_rn(own_weight[row], value.w, total[3]);
            }
          }
        }
      };
      if (no_numbers)
        add_values(std::true_type{});
      else
        add_values(std::false_type{});
    }
#pragma unroll
    for (int row = 0; row < own_rows; ++row) {
      const float factor = 1.0f / warp_reduce(weight[row], Add{}, 16);
      if (!own.has_row(a, r + 16 * row)) continue;
      const int64_t element = tile.element_of(a, r + 16 * row);
      if (element < 0) continue;
      const bool sees = seen[row].begin < seen[row].end;
#pragma unroll
      for (int n = 0; n < quads; ++n) {
        float own_y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) own_y[i] = sees ? sum[row][n][i] * factor : 0.0f;
        const int d = 64 * n + 4 * c;
        if (a.size % 4 == 0 && d < a.size) {
          store_float4(a.y.dtype, y, element + d, make_float4(own_y[0], own_y[1], own_y[2], own_y[3]));
          continue;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (d + i < a.size) store_float(a.y.dtype, y, element + d + i, own_y[i]);
      }
    }
  }
}

namespace {

template <int width>
void launch_width(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  launcher.run(tile_work("attention_prefill_f32", a, sizes), attention_prefill_f32_kernel<width>,
               {tile_blocks(a, sizes), f32_threads, f32_shared_bytes<width>}, a);
}

}  // namespace

void launch_attention_prefill_f32(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.size <= 64) return launch_width<64>(a, sizes, launcher);
  if (a.size <= 128) return launch_width<128>(a, sizes, launcher);
  launch_width<256>(a, sizes, launcher);
}

}  // namespace moe::cuda
