// cpu attention against the reference: ragged batches, paged caches in every dtype, masks, and rows that keep their
// bits.
#include "cpu_operations.h"

namespace moe::test {
namespace {

struct Batch {
  std::vector<double> positions, sequence, lengths;
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

// Each sequence: what the cache holds already, and how many tokens come.
Batch batch_of(const std::vector<std::pair<int, int>> &sequences) {
  Batch batch;
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int i = 0; i < sequences[s].second; ++i) {
      batch.positions.push_back(sequences[s].first + i);
      batch.sequence.push_back(static_cast<double>(s));
    }
    batch.lengths.push_back(sequences[s].first + sequences[s].second);
  }
  return batch;
}

struct Form {
  int64_t heads, kv_heads, dim, page;
  int32_t cache;
  moe_attention attributes;
};

Case attention_case(const Batch &batch, const Form &form, std::vector<double> page_of = {}) {
  Case graph;
  const int64_t tokens = batch.tokens(), sequences = static_cast<int64_t>(batch.lengths.size()),
                kv = form.kv_heads * form.dim;
  double longest = 1;
  for (const double length : batch.lengths) longest = std::max(longest, length);
  const int64_t table = ceil_divide(static_cast<int64_t>(longest), form.page), pages = table * sequences;
  if (page_of.empty())
    for (int64_t i = 0; i < pages; ++i) page_of.push_back(static_cast<double>(pages - 1 - i));
  const int32_t count = graph.symbol_of(tokens);
  const auto rows = [&](int64_t width, uint32_t seed) {
    return graph.input(random_array(MOE_F32, {tokens, width}, seed), {symbol(count), width});
  };
  const int q = rows(form.heads * form.dim, 1), k = rows(kv, 2), v = rows(kv, 3);
  const int positions = graph.input(i32({tokens}, batch.positions), {symbol(count)});
  const int sequence = graph.input(i32({tokens}, batch.sequence), {symbol(count)});
  const int lengths = graph.input(i32({sequences}, batch.lengths));
  const int page = graph.input(i32({pages}, page_of));
  const int k_cache = graph.state(random_array(form.cache, {pages, form.page, kv}, 4));
  const int v_cache = graph.state(random_array(form.cache, {pages, form.page, kv}, 5));
  const int y = graph.output(MOE_F32, {symbol(count), form.heads * form.dim}, 9);
  moe_attention attributes = form.attributes;
  attributes.heads = static_cast<int32_t>(form.heads);
  attributes.kv_heads = static_cast<int32_t>(form.kv_heads);
  graph.node(MOE_ATTENTION, attributes, {q, k, v, positions, sequence, lengths, page, k_cache, v_cache}, {y});
  return graph;
}

constexpr moe_attention causal{0, 0, 1, 0, 0.125f, 0};

TEST_CASE("cpu attention: head widths, groups of heads, page sizes") {
  for (const int64_t dim : {1, 3, 17, 60, 64, 72, 128, 257}) {
    for (const auto &[heads, kv_heads] : {std::pair{1, 1}, {6, 2}, {5, 5}, {40, 1}}) {
      CAPTURE(dim);
      CAPTURE(heads);
      const Batch batch = batch_of({{0, 9}, {30, 1}, {70, 3}, {0, 1}});
      judge(attention_case(batch, {heads, kv_heads, dim, dim % 2 == 0 ? 16 : 5, MOE_F32, causal}), 1e-5);
    }
  }
}

TEST_CASE("cpu attention: windows, soft cap, not causal, long prefill, every cache dtype") {
  const Batch batch = batch_of({{0, 150}, {130, 20}, {200, 1}});
  for (const int32_t cache : {MOE_F32, MOE_F16, MOE_BF16}) {
    for (const moe_attention &form : {causal, moe_attention{0, 0, 1, 37, 0.2f, 0}, moe_attention{0, 0, 1, 1, 0.2f, 0},
                                      moe_attention{0, 0, 1, 0, 0.4f, 2.5f}, moe_attention{0, 0, 1, 70, 0.1f, 30}}) {
      CAPTURE(cache);
      CAPTURE(form.window);
      judge(attention_case(batch, {4, 2, 40, 16, cache, form}), 2e-5);
    }
    // Not causal: a token alone does not find the keys of those after it in the cache yet.
    judge(attention_case(batch, {4, 2, 40, 16, cache, {0, 0, 0, 0, 0.2f, 0}}), 2e-5, false);
    judge(attention_case(batch, {4, 2, 40, 16, cache, {0, 0, 0, 50, 0.2f, 0}}), 2e-5, false);
  }
}

TEST_CASE("cpu attention: sequences, positions, pages and lengths out of range never fault") {
  Batch batch = batch_of({{0, 6}, {40, 4}});
  batch.sequence[2] = -1;
  batch.sequence[3] = 2;
  batch.positions[4] = -5;
  batch.positions[5] = 2147483647;
  std::vector<double> page_of = {2, -1, 5, 0, 3, 6, 2147483647, 1};
  batch.lengths = {60, 64};
  Case graph = attention_case(batch, {4, 2, 24, 16, MOE_F32, causal}, page_of);
  judge(graph, 1e-5);
  graph.values[5].data = i32({2}, {2147483647, -1});
  judge(graph, 1e-5);
}

TEST_CASE("cpu attention ignores what lies in the cache past a length") {
  const Batch batch = batch_of({{5, 1}, {0, 3}});
  Case graph = attention_case(batch, {2, 1, 20, 16, MOE_F32, causal});
  for (Case::Value &value : graph.values) {
    if (value.role != MOE_ROLE_STATE) continue;
    for (int64_t page = 0; page < 2; ++page)
      for (int64_t i = 6 * 20; i < 16 * 20; ++i) value.data.set(page * 16 * 20 + i, NAN);
  }
  judge(graph, 1e-5);
}

// A context is cut at multiples of 512 keys, of 1024 from 8193 keys on.
TEST_CASE("cpu attention: contexts around the cuts, alone and among other tokens") {
  const Batch batch = batch_of({{510, 4}, {1020, 1}, {1600, 2}, {3, 1}});
  for (const int32_t cache : {MOE_F32, MOE_F16, MOE_BF16}) {
    for (const moe_attention &form :
         {causal, moe_attention{0, 0, 1, 600, 0.2f, 0}, moe_attention{0, 0, 1, 0, 0.4f, 2.5f}}) {
      CAPTURE(cache);
      CAPTURE(form.window);
      judge(attention_case(batch, {8, 2, 24, 16, cache, form}), 2e-5);
    }
  }
  judge(attention_case(batch_of({{8190, 4}}), {2, 1, 8, 64, MOE_F32, causal}), 2e-5);
}

TEST_CASE("cpu attention large enough for two threads") {
  judge(attention_case(batch_of({{0, 200}, {300, 1}}), {16, 4, 64, 16, MOE_F32, causal}), 2e-5);
}

}  // namespace
}  // namespace moe::test
