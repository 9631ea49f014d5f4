// All keys and values are stored first (page pages[s·P + p / page_size], place p mod page_size), then
// y[t, h] = Σ_j softmax_j(scale · q[t, h]·k[j, h / (heads / kv_heads)]) v[j] over the visible j; none visible: zeros.
// q, y [T, heads·D], k, v [T, kv_heads·D], caches [pages, page_size, kv_heads·D]. A key on a page out of range is
// zeros. An i8 cache has 4·kv_heads bytes more a place: the f32 steps of its heads, each max|x| / 127 (NaN where a value
// is not finite, its codes 0), behind the codes x / step. Rounding: k and v once to the dtype of the cache, scores and
// sums in double, y once. Bound: bytes of the cache that are visible.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "reference.h"

namespace moe::reference {

namespace {

struct Operands {
  const Tensor &q, &k, &v, &positions, &sequence, &lengths, &pages, &k_cache, &v_cache, &y;
  const moe_attention &attributes;

  int64_t sequences() const { return lengths.elements(); }
  int64_t table() const { return sequences() == 0 ? 0 : pages.elements() / sequences(); }  // P
  int64_t page_size() const { return k_cache.dim[1]; }
  // First element of the place of position p of sequence s in a cache, −1 where there is none.
  int64_t place(int64_t s, int64_t p) const {
    if (s < 0 || s >= sequences() || p < 0 || p / page_size() >= table()) return -1;
    const int64_t page = pages.integer(s * table() + p / page_size());
    if (page < 0 || page >= k_cache.dim[0]) return -1;
    return (page * page_size() + p % page_size()) * k_cache.dim[2];
  }
};

// An f32 step a head behind the codes of a place.
std::byte *step_of(const Tensor &cache, int64_t place, int64_t width, int64_t head) {
  return cache.data + place + width + 4 * head;
}

void quantize_head(const Tensor &from, int64_t first, int64_t size, const Tensor &cache, int64_t to, std::byte *at) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) {
    finite = finite && std::isfinite(from.at(first + i));
    largest = std::max(largest, std::abs(static_cast<float>(from.at(first + i))));
  }
  const float step = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0; i < size; ++i) {
    const float code = step > 0 ? std::nearbyint(static_cast<float>(from.at(first + i)) / step) : 0.0f;
    reinterpret_cast<int8_t *>(cache.data)[to + i] = static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f));
  }
  std::memcpy(at, &step, sizeof step);
}

Operands operands(const Node &node) {
  const auto &in = node.input;
  return {in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8], node.output[0], node.as<moe_attention>()};
}

}  // namespace

int64_t plan_attention(const Node &node) {
  const Operands o = operands(node);
  const char *floats[] = {"q", "k", "v"}, *integers[] = {"positions", "sequence", "lengths", "pages"},
             *caches[] = {"kCache", "vCache"};
  for (size_t i = 0; i < 3; ++i) expect_float(node.input[i], floats[i]);
  for (size_t i = 3; i < 7; ++i) expect_dtype(node.input[i], MOE_I32, integers[i - 3]);
  for (size_t i = 7; i < 9; ++i) {
    if (node.input[7].dtype == MOE_I8)
      expect_dtype(node.input[i], MOE_I8, caches[i - 7]);
    else
      expect_float(node.input[i], caches[i - 7]);
    expect(node.input[i].rank == 3, caches[i - 7], "rank 3", node.input[i].rank);
  }
  const int64_t heads = o.attributes.heads, kv_heads = o.attributes.kv_heads;
  expect(heads > 0 && o.q.width() % heads == 0, "heads", "a divisor of " + std::to_string(o.q.width()), heads);
  expect(kv_heads > 0 && heads % kv_heads == 0, "kvHeads", "a divisor of " + std::to_string(heads), kv_heads);
  const int64_t width = o.q.width() / heads * kv_heads;
  expect(o.k.width() == width && o.v.width() == width, "k", "a width of " + std::to_string(width), o.k.width());
  expect(o.k.rows() == o.q.rows() && o.v.rows() == o.q.rows(), "k", std::to_string(o.q.rows()) + " rows", o.k.rows());
  expect_count(o.positions, o.q.rows(), "positions");
  expect_count(o.sequence, o.q.rows(), "sequence");
  if (o.y) {  // absent where only the caches are wanted
    expect_float(o.y, "y");
    expect_count(o.y, o.q.elements(), "y");
  }
  expect(o.k_cache.dim[1] > 0, "kCache", "a page size of at least 1", o.k_cache.dim[1]);
  const int64_t cache_width = o.k_cache.dtype == MOE_I8 ? checked_add(width, 4 * kv_heads, "kCache") : width;
  expect(o.k_cache.dim[2] == cache_width, "kCache", "a width of " + std::to_string(cache_width), o.k_cache.dim[2]);
  expect(o.k_cache.dim == o.v_cache.dim, "vCache", "the shape of kCache", o.v_cache.elements());
  // P may grow where the sequences of a run are fewer than the most: all pages to one sequence is the bound.
  const int64_t keys = checked_multiply(o.pages.elements(), o.page_size(), "scratch");
  return checked_multiply(checked_add(keys, 2 * (width / kv_heads), "scratch"), 8, "scratch");
}

void run_attention(const Node &node) {
  const Operands o = operands(node);
  const auto &[heads, kv_heads, causal, window, scale, cap] = o.attributes;
  const int64_t size = o.q.width() / heads, width = size * kv_heads;
  const bool quantized = o.k_cache.dtype == MOE_I8;
  const auto step = [&](const Tensor &cache, int64_t place, int64_t head) -> double {
    float value = 1;
    if (quantized && place >= 0) std::memcpy(&value, step_of(cache, place, width, head), sizeof value);
    return static_cast<double>(value);
  };
  auto *query = reinterpret_cast<double *>(node.scratch), *sum = query + size, *scores = sum + size;
  for (int64_t t = 0; t < o.q.rows(); ++t) {
    const int64_t place = o.place(o.sequence.integer(t), o.positions.integer(t));
    if (place < 0) continue;
    for (int64_t h = 0; quantized && h < kv_heads; ++h) {
      const int64_t first = t * width + h * size, to = place + h * size;
      quantize_head(o.k, first, size, o.k_cache, to, step_of(o.k_cache, place, width, h));
      quantize_head(o.v, first, size, o.v_cache, to, step_of(o.v_cache, place, width, h));
    }
    for (int64_t i = 0; !quantized && i < width; ++i) {
      o.k_cache.set(place + i, o.k.at(t * width + i));
      o.v_cache.set(place + i, o.v.at(t * width + i));
    }
  }
  for (int64_t t = 0; o.y && t < o.q.rows(); ++t) {
    const int64_t s = o.sequence.integer(t), p = o.positions.integer(t);
    int64_t end = s < 0 || s >= o.sequences() ? 0 : std::min<int64_t>(o.lengths.integer(s), o.table() * o.page_size());
    if (causal) end = std::min(end, p + 1);
    const int64_t begin = window > 0 ? std::max<int64_t>(0, p - window + 1) : 0;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t own = t * o.q.width() + h * size, kv = h / (heads / kv_heads), shared = kv * size;
      for (int64_t i = 0; i < size; ++i) query[i] = o.q.at(own + i), sum[i] = 0;
      double highest = -HUGE_VAL, total = 0;
      for (int64_t j = begin; j < end; ++j) {
        const int64_t key = o.place(s, j);
        double score = 0;
        for (int64_t i = 0; key >= 0 && i < size; ++i) score += query[i] * o.k_cache.at(key + shared + i);
        score *= step(o.k_cache, key, kv) * static_cast<double>(scale);
        if (cap > 0) score = static_cast<double>(cap) * std::tanh(score / static_cast<double>(cap));
        scores[j] = score;
        highest = std::max(highest, score);
      }
      for (int64_t j = begin; j < end; ++j) {
        const int64_t key = o.place(s, j);
        const double weight = std::exp(scores[j] - highest);
        const double value_weight = weight * step(o.v_cache, key, kv);
        total += weight;
        for (int64_t i = 0; key >= 0 && i < size; ++i) sum[i] += value_weight * o.v_cache.at(key + shared + i);
      }
      for (int64_t i = 0; i < size; ++i) o.y.set(own + i, begin < end ? sum[i] / total : 0);
    }
  }
}

}  // namespace moe::reference
