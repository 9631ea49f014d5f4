// Banks of any parts, filled at random.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "backend_data.h"
#include "random.h"

namespace moe::gpu_check {

// Owns all that `plain` points to.
struct BankData {
  test::PlainBank plain;
  std::deque<std::vector<std::byte>> bytes;
  std::deque<std::vector<int32_t>> sizes;
  std::deque<std::vector<int64_t>> widths;
};

// What a bank is to be; parts as moe_part describes them, without their data.
struct BankShape {
  int64_t in = 1, out = 1;
  int32_t slots = 1;
  bool gated = false;
  std::vector<moe_part> parts{};
  std::vector<int64_t> in_of{}, out_of{};
  std::vector<int32_t> base_of{};  // empty: each slot has a base of its own
};

// Every part adds to an output about what x weighs: its values have a deviation of 1/√in. Seen only through the pointer,
// since the bank's spec points into it.
std::shared_ptr<const BankData> random_bank(const BankShape &shape, Random &random);

// "i4 group 32 offset + rank 8 + 2:4 bf16 + bias"
std::string describe(const std::vector<moe_part> &parts);

}  // namespace moe::gpu_check
