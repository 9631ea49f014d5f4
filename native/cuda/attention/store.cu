// The first half of attention: keys and values of all tokens into the paged caches, and zeros into the counters of the
// decode form.
//
// Layout: k, v [T, kv_heads·D]; caches [pages, page_size, kv_heads·D]; f32, f16 or bf16 each. A token whose sequence or page
// is none is not stored. Two tokens at one place: either stays.
// Bound: bytes. Each key and value is read once and written once. Share reached: not measured on a GPU yet.
#include "attention/forms.h"
#include "attention/keys.h"
#include "moe/dtype.h"

namespace moe::cuda {

inline constexpr unsigned store_threads = 128;

// A block a token.
__global__ void __launch_bounds__(store_threads) attention_store_kernel(const Frame *frame, AttentionArguments a) {
  const int64_t token = blockIdx.x;
  if (token >= rows(frame, a.q)) return;
  if (a.arrived.present())
    for (int64_t i = threadIdx.x; i < a.counters; i += store_threads)
      ptx::store(at<uint32_t>(frame, a.arrived) + token * a.counters + i, 0u);
  const PagedKeys keys(frame, a, ptx::load(at<int32_t>(frame, a.sequence) + token));
  const int64_t position = ptx::load(at<int32_t>(frame, a.positions) + token);
  const int64_t place = position < 0 ? -1 : keys.row(position);
  if (place < 0) return;
  const int64_t width = static_cast<int64_t>(a.kv_heads) * a.size, from = token * width;
  const void *const k = at<void>(frame, a.k), *const v = at<void>(frame, a.v);
  void *const k_cache = at<void>(frame, a.k_cache), *const v_cache = at<void>(frame, a.v_cache);
  if (width % 4 == 0) {
    for (int64_t i = 4 * static_cast<int64_t>(threadIdx.x); i < width; i += 4 * store_threads) {
      store_float4(a.k_cache.dtype, k_cache, place + i, load_float4(a.k.dtype, k, from + i));
      store_float4(a.v_cache.dtype, v_cache, place + i, load_float4(a.v.dtype, v, from + i));
    }
    return;
  }
  for (int64_t i = threadIdx.x; i < width; i += store_threads) {
    store_float(a.k_cache.dtype, k_cache, place + i, load_float(a.k.dtype, k, from + i));
    store_float(a.v_cache.dtype, v_cache, place + i, load_float(a.v.dtype, v, from + i));
  }
}

void launch_attention_store(const AttentionArguments &a, const AttentionSizes &sizes, Launcher &launcher) {
  const int64_t elements = sizes.tokens * a.kv_heads * a.size;
  const int64_t bytes = dtype_bytes(a.k.dtype, elements) + dtype_bytes(a.v.dtype, elements) +
                        2 * dtype_bytes(a.k_cache.dtype, elements) + sizes.tokens * (16 + 4 * a.counters);
  launcher.run({"attention_store", bytes, 0}, attention_store_kernel,
               {dim3(blocks_for(sizes.tokens, 1)), store_threads}, a);
}

}  // namespace moe::cuda
