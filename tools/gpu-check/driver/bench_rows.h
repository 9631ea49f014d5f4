// The rows of the benchmark: graphs of a few nodes alike, so that weights come from memory and not from a cache, and what
// each has to move and to compute.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend_harness.h"
#include "bank.h"
#include "bench_cublas.h"
#include "random.h"

namespace moe::gpu_check {

struct BenchRow {
  test::Case graph{};
  std::vector<std::shared_ptr<const BankData>> banks{};
  int64_t repeats = 1;                  // nodes, or pairs of nodes, that are timed together
  int64_t bytes = 0;                    // of one of them, but for the weights
  double weight_share = 0;              // of all packed weights that one of them reads
  int64_t operations = 0;               // of one of them
  const char *limit = "memory";         // what binds it: memory, or bf16 products
  std::optional<DenseProduct> dense{};  // what one of them is, where it is one, whatever its weight is packed as
};

struct BenchPlan {
  std::string name;
  std::function<BenchRow(Random &)> build;
};

// small: sizes that a stand-in runs through.
std::vector<BenchPlan> bench_plans(bool small);

}  // namespace moe::gpu_check
