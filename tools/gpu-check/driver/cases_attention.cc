// attention over shuffled pages: heads, windows, dtypes, pages that are none.
#include <cmath>

#include "check_case.h"

namespace moe::gpu_check {

using test::Array;
using test::Shape;
using test::symbol;

CheckCase attention_case(Random &random) {
  const int64_t kv_heads = random.between(1, 4), heads = kv_heads * random.pick<int64_t>({1, 1, 2, 4, 8}),
                size = random.pick<int64_t>({4, 20, 32, 64, 64, 80, 128}), page = random.pick<int64_t>({1, 7, 16, 32}),
                sequences = random.between(1, 4);
  CheckCase made{"attention " + std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads of " +
                     std::to_string(size) + ", pages of " + std::to_string(page),
                 Bound::chain, size};
  const int32_t dtype = random.float_dtype(), cache = random.float_dtype();

  // Keys that were there before, and new ones, of each sequence; tokens of a sequence follow each other.
  std::vector<double> sequence, positions, lengths;
  int64_t longest = 1;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t before = random.between(0, 70), fresh = random.pick<int64_t>({1, 1, random.between(0, 40)});
    for (int64_t i = 0; i < fresh; ++i) {
      sequence.push_back(static_cast<double>(s));
      positions.push_back(static_cast<double>(before + i));
    }
    lengths.push_back(static_cast<double>(before + fresh));
    longest = std::max(longest, before + fresh);
  }
  const auto tokens = static_cast<int64_t>(sequence.size());
  made.graph.symbol_of(tokens);
  made.runs = {{0}, {random.between(0, tokens)}};
  const int64_t each = (longest + page - 1) / page, pages = sequences * each + 2;
  std::vector<double> table;
  for (const int32_t place : random.distinct(sequences * each, pages)) table.push_back(place);
  if (random.chance(20)) table[static_cast<size_t>(random.between(0, sequences * each - 1))] = -1;

  const auto flow = [&](int64_t width) {
    return made.graph.input(random.normals(dtype, {tokens, width}), {symbol(0), width});
  };
  const auto store = [&] { return made.graph.state(random.normals(cache, {pages, page, kv_heads * size})); };
  const moe_attention attributes{
      static_cast<int32_t>(heads),   static_cast<int32_t>(kv_heads),          random.chance(80) ? 1 : 0,
      random.pick({0, 0, 1, 5, 40}), 1 / std::sqrt(static_cast<float>(size)), random.pick({0.0F, 0.0F, 2.0F})};
  const int q = flow(heads * size), k = flow(kv_heads * size), v = flow(kv_heads * size);
  const int position = made.graph.input(test::i32({tokens}, positions), {symbol(0)}),
            owner = made.graph.input(test::i32({tokens}, sequence), {symbol(0)}),
            length = made.graph.input(test::i32({sequences}, lengths)),
            places = made.graph.input(test::i32({sequences * each}, table)), keys = store(), values = store();
  made.graph.node(MOE_ATTENTION, attributes, {q, k, v, position, owner, length, places, keys, values},
                  {made.graph.output(dtype, {symbol(0), heads * size})});
  return made;
}

}  // namespace moe::gpu_check
