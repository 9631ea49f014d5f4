// f16 and bf16 ↔ f32, elementwise.
// Layout: dense arrays, one element after another. Bound: memory, 6 bytes an element.
#include "convert.h"

#include <algorithm>

#include "moe/backend.h"
#include "moe/half.h"

namespace moe::cpu {
namespace {

constexpr int64_t chunk = 16 * 1024;

template <typename Body>
void in_chunks(int64_t count, int threads, const Body &body) {
  const int64_t chunks = (count + chunk - 1) / chunk;
  Pool::shared().parallel_for(chunks, chunks < 4 ? 1 : threads,
                              [&](int64_t i, int) { body(i * chunk, std::min(count, (i + 1) * chunk)); });
}

}  // namespace

void widen_floats(int32_t dtype, const void *from, float *to, int64_t count, int threads) {
  const auto *const bits = static_cast<const uint16_t *>(from);
  in_chunks(count, threads, [&](int64_t begin, int64_t end) {
    if (dtype == MOE_BF16) {
      for (int64_t i = begin; i < end; ++i) to[i] = bf16_to_f32(bits[i]);
    } else {
      for (int64_t i = begin; i < end; ++i) to[i] = f16_to_f32(bits[i]);
    }
  });
}

void narrow_floats(int32_t dtype, const float *from, void *to, int64_t count, int threads) {
  auto *const bits = static_cast<uint16_t *>(to);
  in_chunks(count, threads, [&](int64_t begin, int64_t end) {
    if (dtype == MOE_BF16) {
      for (int64_t i = begin; i < end; ++i) bits[i] = f32_to_bf16(from[i]);
    } else {
      for (int64_t i = begin; i < end; ++i) bits[i] = f32_to_f16(from[i]);
    }
  });
}

}  // namespace moe::cpu
