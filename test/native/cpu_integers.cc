// Linear on integers: the instruction sets with a fused multiply-add have the same bits, whatever they multiply the codes with.
// Sums of codes are exact in any order, and what follows them is one order of f32 for all.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "cpu_linear.h"

namespace {

using namespace moe::test;

struct Form {
  std::string name;
  moe_part part;
};
std::vector<Form> forms() {
  return {
      {"i8 channel", integer_part(MOE_I8, 0, MOE_F32)},
      {"i8 32 offset", integer_part(MOE_I8, 32, MOE_F16, true)},
      {"i4 channel offset", integer_part(MOE_I4, 0, MOE_F16, true)},
      {"i4 32", integer_part(MOE_I4, 32, MOE_F32)},
      {"i4 64 offset", integer_part(MOE_I4, 64, MOE_F32, true)},
      {"i4 128", integer_part(MOE_I4, 128, MOE_F16)},
  };
}

void compare_bits(const Bank &bank, const Array &x, const std::vector<double> &offsets = {}) {
  Case graph;
  const int input = graph.input(x), weight = graph.weight(bank);
  const int y = graph.output(MOE_F32, {x.shape[0], bank.form.out});
  const int at = offsets.empty() ? -1 : graph.input(i32({static_cast<int64_t>(offsets.size())}, offsets));
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_INT8, MOE_F32}, {input, weight, -1, at}, {y});
  const auto result = [&](const std::string &isa) {
    return run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)].bytes;
  };
  std::vector<std::string> sets = instruction_sets();
  std::erase(sets, "plain");  // which has no fused one
  std::vector<std::byte> first;
  for (const std::string &isa : sets) {
    const auto bytes = result(isa);
    if (first.empty()) first = bytes;
    CAPTURE(isa);
    CHECK(bytes == first);
  }
}

}  // namespace

TEST_CASE("cpu integers: every instruction set has the same bits, for any number of rows and width") {
  for (const Form &form : forms()) {
    for (const int64_t in : {8, 40, 704, 1100, 2880}) {
      const Bank bank = random_bank({in, 70, 1, false, form.part, true}, 3);
      for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33, 250}) {
        CAPTURE(form.name);
        CAPTURE(in);
        CAPTURE(rows);
        compare_bits(bank, random_array(MOE_F32, {rows, in}, 5));
      }
    }
  }
}

TEST_CASE("cpu integers: slots of one, few and many rows, and sums longer than an int32 holds, have the same bits") {
  for (const Form &form : forms()) {
    CAPTURE(form.name);
    const Bank experts = random_bank({160, 40, 6, false, form.part, true, {160, 96, 160, 37, 160, 160}, {}}, 7);
    const Array x = random_array(MOE_F32, {100, 160}, 8);
    compare_bits(experts, x, {0, 50, 53, 54, 62, 80, 100});
    compare_bits(random_bank({66'000, 3, 1, false, form.part}, 9), random_array(MOE_F32, {18, 66'000}, 10));
  }
}
