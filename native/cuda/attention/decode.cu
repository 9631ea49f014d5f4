// Attention of single tokens: for runs of few tokens a sequence, and for whatever the tile forms leave.
//
// Layout: a block has one token, up to eight heads of one group, and one part of the keys that the token sees. Eight
// elements of a key are a lane's; 8, 16 or 32 lanes are a team and hold a whole key. Each team has a softmax of its own over
// every n-th key (largest score, weight, weighted sum of values). They are merged at the end, always in the same order:
// within a warp by shuffles, within the block through shared memory, and where the keys are in several parts by the block
// that is last to arrive.
// Bound: bytes. Every visible key and value is read once for all heads of its group, up to eight; cutting the keys into
// parts is what keeps all multiprocessors reading where tokens are few. Share reached: not measured on a GPU yet.
#include "attention/forms.h"
#include "attention/parts.h"
#include "attention/slice.h"

namespace moe::cuda {

inline constexpr int decode_warps = 4, decode_threads = 32 * decode_warps;

// What a lane has of a query, as Slice has it of a key; those at `left` and beyond are zeros.
template <typename Own, bool whole>
__device__ __forceinline__ void load_query(int32_t dtype, const void *q, int64_t from, int lane, int left,
                                           float (&query)[8]) {
  if constexpr (whole) {
#pragma unroll
    for (int e = 0; e < 8; e += 4) {
      const int column = Own::column(lane, e);
      const float4 own = column < left ? load_float4(dtype, q, from + column) : make_float4(0, 0, 0, 0);
      query[e] = own.x;
      query[e + 1] = own.y;
      query[e + 2] = own.z;
      query[e + 3] = own.w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int column = Own::column(lane, e);
      query[e] = column < left ? load_float(dtype, q, from + column) : 0.0f;
    }
  }
}

// Eight lanes for each 64 elements of D, or all 32 with up to `slices` slices each where D is larger or no multiple of 8.
template <int dtype, int queries, int lanes, int slices, bool whole>
__global__ void __launch_bounds__(decode_threads, queries *slices > 1 ? 2 : 4)
    attention_decode_kernel(const Frame *frame, AttentionArguments a) {
  using Element = ElementOf<dtype>;
  constexpr int teams = 32 / lanes, block_teams = teams * decode_warps;
  constexpr int batch = slices > 1 ? 1 : 8 / static_cast<int>(sizeof(Element));  // keys under way
  constexpr int padded = 8 * slices * lanes;
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.q)) return;
  const int64_t sequence = ptx::load(at<int32_t>(frame, a.sequence) + token);
  if (taken_by_tiles(frame, a, token, sequence)) return;
  const PagedKeys keys(frame, a, sequence);
  const KeyPart part(a, keys.visible(a, ptx::load(at<int32_t>(frame, a.positions) + token)),
                     static_cast<int>(blockIdx.z));
  if (!part.exists()) return;
  const int begin = part.own().begin, end = part.own().end;
  const HeadsOfBlock heads(a, queries);

  const int lane = lane_of_thread(), warp = warp_of_thread(), in_team = lane % lanes;
  const int team = warp * teams + lane / lanes;
  const int64_t first_row = token * a.heads + heads.first;
  using Own = Slice<Element, whole, lanes>;
  float query[queries][slices][8], sum[queries][slices][8], largest[queries], weight[queries];
#pragma unroll
  for (int g = 0; g < queries; ++g) {
    largest[g] = -INFINITY;
    weight[g] = 0;
    const int64_t from = (first_row + g) * a.size;
#pragma unroll
    for (int s = 0; s < slices; ++s) {
      load_query<Own, whole>(a.q.dtype, at<void>(frame, a.q), from + 8 * lanes * s, in_team,
                             g < heads.count ? a.size - 8 * lanes * s : 0, query[g][s]);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum[g][s][e] = 0;
    }
  }

  const Element *const k_cache = at<Element>(frame, a.k_cache) + static_cast<int64_t>(heads.kv_head) * a.size;
  const Element *const v_cache = at<Element>(frame, a.v_cache) + static_cast<int64_t>(heads.kv_head) * a.size;
  for (int first = begin; first < end; first += batch * block_teams) {
    // Each lane looks up one key of the warp's: neighbours share a page.
    const int own_key = first + lane / teams * block_teams + warp * teams + lane % teams;
    const int64_t own_row = lane < batch * teams && own_key < end ? keys.row(own_key) : -1;
    Own k[batch][slices], v[batch][slices];
    bool seen_here[batch];
#pragma unroll
    for (int b = 0; b < batch; ++b) {
      seen_here[b] = first + b * block_teams + team < end;
      const int64_t row = __shfl_sync(whole_warp, own_row, b * teams + lane / lanes);
#pragma unroll
      for (int s = 0; s < slices; ++s) {
        const int before = 8 * lanes * s, left = row < 0 ? 0 : a.size - before;
        k[b][s].load(k_cache + row + before, in_team, left);
        v[b][s].load(v_cache + row + before, in_team, left);
      }
    }
#pragma unroll
    for (int g = 0; g < queries; ++g) {
      float score[batch], highest = largest[g];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        float product = 0;
#pragma unroll
        for (int s = 0; s < slices; ++s)
#pragma unroll
          for (int e = 0; e < 8; ++e) product = __fmaf_rn(query[g][s][e], k[b][s].value(e), product);
        product = warp_reduce(product, Add{}, lanes);
        score[b] = seen_here[b] ? scaled_score(a, product) : -INFINITY;
        highest = fmaxf(highest, score[b]);
      }
      const float kept = softmax_weight(largest[g], highest);
      largest[g] = highest;
      weight[g] *= kept;
#pragma unroll
      for (int s = 0; s < slices; ++s)
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[g][s][e] *= kept;
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const float own = softmax_weight(score[b], highest);
        weight[g] += own;
#pragma unroll
        for (int s = 0; s < slices; ++s)
#pragma unroll
          for (int e = 0; e < 8; ++e) sum[g][s][e] = __fmaf_rn(own, v[b][s].value(e), sum[g][s][e]);
      }
    }
  }

  // The teams of a warp, then the warps of the block.
  SharedCutter cutter;
  const SharedArray<float> warp_sum = cutter.take<float>(decode_warps * queries * padded);
  const SharedArray<float2> warp_state = cutter.take<float2>(decode_warps * queries);
  const SharedArray<uint32_t> is_last = cutter.take<uint32_t>(1);
#pragma unroll
  for (int g = 0; g < queries; ++g) {
#pragma unroll
    for (int step = lanes; step < 32; step *= 2) {
      const float other = __shfl_xor_sync(whole_warp, largest[g], step), highest = fmaxf(largest[g], other);
      const float own_part = softmax_weight(largest[g], highest), other_part = softmax_weight(other, highest);
      largest[g] = highest;
      weight[g] = weight[g] * own_part + __shfl_xor_sync(whole_warp, weight[g], step) * other_part;
#pragma unroll
      for (int s = 0; s < slices; ++s)
#pragma unroll
        for (int e = 0; e < 8; ++e)
          sum[g][s][e] = sum[g][s][e] * own_part + __shfl_xor_sync(whole_warp, sum[g][s][e], step) * other_part;
    }
    if (lane == 0) warp_state[warp * queries + g] = make_float2(largest[g], weight[g]);
    if (lane < lanes)
#pragma unroll
      for (int s = 0; s < slices; ++s)
#pragma unroll
        for (int e = 0; e < 8; ++e)
          warp_sum[(warp * queries + g) * padded + 8 * lanes * s + Own::column(in_team, e)] = sum[g][s][e];
  }
  __syncthreads();
  part.finish<decode_threads>(frame, a, first_row, heads.count, token * a.counters + blockIdx.y, is_last,
                              [&](int g, int d) {
                                return merge_rows(decode_warps, [&](int w) {
                                  const float2 state = warp_state[w * queries + g];
                                  return RowResult{state.x, state.y, warp_sum[(w * queries + g) * padded + d]};
                                });
                              });
}

namespace {

template <int dtype, int queries, int lanes, int slices, bool whole>
void launch_form(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  constexpr size_t shared = sizeof(float) * decode_warps * queries * (8 * slices * lanes + 2) + 16;
  launcher.run(decode_work("attention_decode", a, sizes), attention_decode_kernel<dtype, queries, lanes, slices, whole>,
               {decode_blocks(a, sizes), decode_threads, shared}, a);
}

template <int dtype, int queries>
void launch_whole(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.size <= 64) return launch_form<dtype, queries, 8, 1, true>(a, sizes, launcher);
  if (a.size <= 128) return launch_form<dtype, queries, 16, 1, true>(a, sizes, launcher);
  return launch_form<dtype, queries, 32, 1, true>(a, sizes, launcher);
}

template <int dtype>
void launch_dtype(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  switch (decode_heads(a)) {
    case 8:
      return launch_whole<dtype, 8>(a, sizes, launcher);
    case 4:
      return launch_whole<dtype, 4>(a, sizes, launcher);
    default:
      if (decode_whole(a)) return launch_whole<dtype, 1>(a, sizes, launcher);
      return launch_form<dtype, 1, 32, 4, false>(a, sizes, launcher);
  }
}

}  // namespace

void launch_attention_decode(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  if (a.k_cache.dtype == MOE_F32) return launch_dtype<MOE_F32>(a, sizes, launcher);
  if (a.k_cache.dtype == MOE_F16) return launch_dtype<MOE_F16>(a, sizes, launcher);
  return launch_dtype<MOE_BF16>(a, sizes, launcher);
}

}  // namespace moe::cuda
