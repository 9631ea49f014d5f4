// One case of the native conformance run, and the generators of them.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend_harness.h"
#include "bank.h"
#include "compare.h"
#include "random.h"

namespace moe::gpu_check {

struct CheckCase {
  std::string name;
  Bound bound = Bound::exact;
  int64_t k = 1;  // length of the sums
  test::Case graph{};
  std::vector<std::shared_ptr<const BankData>> banks{};  // what the graph's banks point to
  // Sizes of the runs, in order; then the largest, twice: captured and replayed.
  std::vector<std::vector<int64_t>> runs{};
  // An output → the output with the offsets: only rows below the last of them are specified.
  std::map<int, int> rows_below{};

  int weight(std::shared_ptr<const BankData> bank) {
    banks.push_back(std::move(bank));
    return graph.weight(banks.back()->plain);
  }
};

// One random case of an operation.
using Generator = CheckCase (*)(Random &);
struct Family {
  const char *operation;
  Generator generator;
  int weight;  // cases of it for each case asked for
};
// Every operation, and chains of them.
const std::vector<Family> &families();

CheckCase embed_case(Random &random);
CheckCase norm_case(Random &random);
CheckCase rotate_case(Random &random);
CheckCase map_case(Random &random);
CheckCase take_case(Random &random);
CheckCase convolve_case(Random &random);
CheckCase attention_case(Random &random);
CheckCase score_case(Random &random);
CheckCase accumulate_case(Random &random);
CheckCase route_case(Random &random);
CheckCase combine_case(Random &random);
CheckCase dense_case(Random &random);
CheckCase grouped_case(Random &random);
CheckCase layer_case(Random &random);

// Symbol 0 of a graph is its tokens: 1 to `most`, and a run of fewer, and one of none.
int64_t add_tokens(CheckCase &made, Random &random, int64_t most);
// A width of a kind that kernels treat apart: odd, even, a multiple of 4 or of 8, long.
int64_t any_width(Random &random, int64_t most);

}  // namespace moe::gpu_check
