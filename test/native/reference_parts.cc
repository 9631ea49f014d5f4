// The parts of a bank on the reference, each by hand: low-rank factors, kept rows, n:m sparse, shared bases, dual-grained
// scales; their sums; mode int8; what is refused.
#include <doctest/doctest.h>

#include <cmath>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_reference(void);

namespace {

using namespace moe::test;
using Values = std::vector<double>;

moe_weight_spec spec_of(int64_t in, int64_t out, int32_t slots = 1, bool gated = false) {
  moe_weight_spec spec{};
  spec.in = in;
  spec.out = out;
  spec.slots = slots;
  spec.gated = gated ? 1 : 0;
  return spec;
}

moe_part sized(int32_t kind, int32_t size, const int32_t *ragged = nullptr) {
  moe_part part = moe::float_part(MOE_F32, kind);
  part.size = size;
  part.ragged = ragged;
  return part;
}

moe_part sparse(moe_part part, int32_t n, int32_t m) {
  part.kind = MOE_PART_SPARSE;
  part.n = n;
  part.m = m;
  return part;
}

// y of a dense linear over f32 x, or of a grouped one whose row r lies in slot slot_of[r] (ascending) and reads x[r].
Values linear(const PlainBank &bank, const Values &x, moe_linear attributes = {MOE_NONE, MOE_EXACT, MOE_F32},
              const std::vector<int> &slot_of = {}) {
  Case graph;
  const int64_t rows = static_cast<int64_t>(x.size()) / bank.spec.in, out = bank.spec.out / (bank.spec.gated ? 2 : 1);
  const int input = graph.input(f32({rows, bank.spec.in}, x)), weight = graph.weight(bank);
  int offsets = -1;
  if (!slot_of.empty()) {
    Values starts{0};
    for (int s = 0; s < bank.spec.slots; ++s)
      starts.push_back(starts.back() + static_cast<double>(std::count(slot_of.begin(), slot_of.end(), s)));
    offsets = graph.input(i32({bank.spec.slots + 1}, starts));
  }
  const int y = graph.output(MOE_F32, {rows, out});
  graph.node(MOE_LINEAR, attributes, {input, weight, -1, offsets}, {y});
  return run(moe_backend_reference(), graph, "foreign=1")[y].values();
}

moe_plain floats(const float *values, const void *index = nullptr) {
  return {values, nullptr, nullptr, nullptr, index};
}

}  // namespace

TEST_CASE("reference parts: low-rank factors, alone and of no rank in a slot") {
  const float a[] = {1, 2, 3, 0, 1, 0, 4, 0, 0}, b[] = {10, 0, -1, 1, 5, 6};
  const int32_t ranks[] = {2, 0, 1};
  PlainBank bank{spec_of(3, 2, 3), {sized(MOE_PART_FACTOR_IN, 2, ranks), sized(MOE_PART_FACTOR_OUT, 2, ranks)}, {}};
  bank.pieces = {
      {1, 0, 0, 2, floats(b)}, {0, 0, 0, 2, floats(a)}, {0, 2, 0, 1, floats(a + 6)}, {1, 2, 0, 2, floats(b + 4)}};
  // Slot 0: A·x = (6, 1), y = (60, −6 + 1); slot 1 has nothing; slot 2: A·x = 4, y = (20, 24).
  CHECK(linear(bank, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {MOE_NONE, MOE_EXACT, MOE_F32}, {0, 1, 2}) ==
        Values{60, -5, 0, 0, 20, 24});
}

TEST_CASE("reference parts: kept rows add to the outputs that their index names, with a bias") {
  const float rows[] = {1, 2, 3, 4}, bias[] = {0.5F, 0, 0, 100};
  const int32_t index[] = {1, 3};
  PlainBank bank{spec_of(2, 4), {sized(MOE_PART_ROWS, 2), moe::bias_part()}, {}};
  bank.pieces = {
      {0, 0, 1, 1, floats(rows + 2, index + 1)}, {0, 0, 0, 1, floats(rows, index)}, {1, 0, 0, 4, floats(bias)}};
  CHECK(linear(bank, {1, 10}) == Values{0.5, 21, 0, 143});
}

TEST_CASE("reference parts: 2:4 with a last block that is short") {
  const float values[] = {1, 2, 3, 0, 4, 5, 6, 0};
  const uint8_t index[] = {0, 3, 0, 1, 1, 2, 0, 3};  // the last of each row lies past the inputs
  PlainBank bank{spec_of(5, 2), {sparse(moe::float_part(MOE_F32), 2, 4)}, {{0, 0, 0, 2, floats(values, index)}}};
  CHECK(linear(bank, {1, 10, 100, 1000, 10000}) == Values{1 + 2000 + 30000, 40 + 500 + 60000});
}

TEST_CASE("reference parts: slots that share a base add their own factors to it") {
  const float base[] = {1, 1, 0, 2}, a[] = {1, 0, 0, 1, 1, 1}, b[] = {10, 20, 30};
  const int32_t base_of[] = {1, 0, 1};
  PlainBank bank{
      spec_of(2, 1, 3), {moe::float_part(MOE_F32), sized(MOE_PART_FACTOR_IN, 1), sized(MOE_PART_FACTOR_OUT, 1)}, {}};
  bank.spec.base_slots = 2;
  bank.spec.base_of = base_of;
  for (int s = 0; s < 2; ++s) bank.pieces.push_back({0, s, 0, 1, floats(base + 2 * s)});
  for (int s = 0; s < 3; ++s) {
    bank.pieces.push_back({1, s, 0, 1, floats(a + 2 * s)});
    bank.pieces.push_back({2, s, 0, 1, floats(b + s)});
  }
  CHECK(linear(bank, {1, 2, 1, 2, 1, 2}, {MOE_NONE, MOE_EXACT, MOE_F32}, {0, 1, 2}) == Values{4 + 10, 3 + 40, 4 + 90});
}

TEST_CASE("reference parts: all of them are summed before a gated activation") {
  const float base[] = {1, 1}, a[] = {2}, b[] = {3, 5}, row[] = {7}, values[] = {11, 13}, bias[] = {17, 19};
  const int32_t index[] = {1};
  const uint8_t places[] = {0, 0};
  PlainBank bank{spec_of(1, 2, 1, true),
                 {moe::float_part(MOE_F32), sized(MOE_PART_FACTOR_IN, 1), sized(MOE_PART_FACTOR_OUT, 1),
                  sized(MOE_PART_ROWS, 1), sparse(moe::float_part(MOE_F32), 1, 4), moe::bias_part()},
                 {{0, 0, 0, 2, floats(base)},
                  {1, 0, 0, 1, floats(a)},
                  {2, 0, 0, 2, floats(b)},
                  {3, 0, 0, 1, floats(row, index)},
                  {4, 0, 0, 2, floats(values, places)},
                  {5, 0, 0, 2, floats(bias)}}};
  const double gate = -2 * (1 + 6 + 11) + 17, up = -2 * (1 + 10 + 7 + 13) + 19;
  CHECK(difference(linear(bank, {-2}, {MOE_SWIGLU, MOE_EXACT, MOE_F32}), {gate / (1 + std::exp(-gate)) * up}) < 1e-7);
}

TEST_CASE("reference parts: dual-grained scales, exact and with the whole row of x under one step") {
  uint8_t codes[2][20] = {};
  codes[0][0] = 0x97;   // 7, −7
  codes[0][16] = 0x81;  // input 32: 1, input 33: −8
  codes[1][19] = 0x20;  // input 39: 2
  const int8_t inner[] = {18, 15, 1, 127 / 2};
  const float outer[] = {0.5F, 2};
  PlainBank bank{spec_of(40, 2), {moe::dual_part(MOE_I4, MOE_F32, 32)}, {}};
  bank.pieces = {{0, 0, 0, 2, {codes, inner, nullptr, outer, nullptr}}};
  Values x(40);
  x[0] = 127, x[1] = 1.4, x[32] = -3, x[33] = 2.2, x[39] = 50;
  const auto row = [](double x1, double x33) { return 0.5 * (18 * 7 * 127 - 18 * 7 * x1 + 15 * -3 - 15 * 8 * x33); };
  CHECK(difference(linear(bank, x), {row(1.4, 2.2), 2 * 63 * 2 * 50}) < 1e-7);
  CHECK(linear(bank, x, {MOE_NONE, MOE_INT8, MOE_F32}) == Values{row(1, 2), 2 * 63 * 2 * 50});  // the step is 1
}

TEST_CASE("reference parts: mode int8 quantizes x by the groups of each integer part, and not for the others") {
  // Sparse i8 in groups of 32, kept rows of i8 under one scale with an offset, and float factors.
  std::vector<int8_t> codes(2 * 20, 0), kept(40, 1);
  std::vector<uint8_t> places;
  for (int i = 0; i < 40; ++i) places.push_back(static_cast<uint8_t>(i % 2));
  codes[0] = 5, codes[16] = 3, codes[17] = -4;                // inputs 0, 32 and 33 of output 0
  const uint16_t scale[] = {0x3c00, 0x4000, 0x3c00, 0x3c00};  // 1, 2, 1, 1
  const float row_scale[] = {0.25F}, row_offset[] = {0.5F};
  const int32_t index[] = {1};
  std::vector<float> a(40, 0), b{1, 0};
  a[33] = 1;
  moe_part rows = moe::integer_part(MOE_I8, MOE_F32, true, 0);
  rows.kind = MOE_PART_ROWS;
  rows.size = 1;
  PlainBank bank{spec_of(40, 2),
                 {sparse(moe::integer_part(MOE_I8, MOE_F16, false, 32), 2, 4), rows, sized(MOE_PART_FACTOR_IN, 1),
                  sized(MOE_PART_FACTOR_OUT, 1)},
                 {{0, 0, 0, 2, {codes.data(), scale, nullptr, nullptr, places.data()}},
                  {1, 0, 0, 1, {kept.data(), row_scale, row_offset, nullptr, index}},
                  {2, 0, 0, 1, floats(a.data())},
                  {3, 0, 0, 2, floats(b.data())}}};
  Values x(40);
  x[0] = 254, x[2] = 3.1, x[32] = 127, x[33] = 1.3;
  // Steps: 2 and 1 by groups of 32, 2 over the row. Codes of the row: 127, 2 (1.55), 64 (63.5, half to even), 1 (0.65).
  const double output0 = 2 * 1 * 5 * 127 + 1 * 2 * (3 * 127 - 4 * 1) + static_cast<double>(1.3F);
  const double sum = 127 + 2 + 64 + 1;
  CHECK(difference(linear(bank, x, {MOE_NONE, MOE_INT8, MOE_F32}), {output0, 2 * (0.25 * sum - 0.5 * sum)}) < 1e-7);
}

TEST_CASE("reference parts: what cannot be is refused, by name") {
  const moe_part base = moe::float_part(MOE_F32), in = sized(MOE_PART_FACTOR_IN, 2),
                 out = sized(MOE_PART_FACTOR_OUT, 2), rows = sized(MOE_PART_ROWS, 2);
  const auto refused = [](PlainBank bank, const moe_weight_spec &spec) {
    bank.spec = spec;
    const moe_error error = failure([&] {
      Case graph;
      graph.weight(bank);
      Session(moe_backend_reference(), graph);
    });
    return error.code == MOE_INVALID_ARGUMENT ? std::string(error.argument) : "not refused";
  };
  const auto parts = [&](std::vector<moe_part> of, int64_t width = 8, int32_t slots = 1) {
    return refused({{}, std::move(of), {}}, spec_of(width, 4, slots));
  };
  const int32_t ranks[] = {2, 1}, far[] = {2, 3}, base_of[] = {0, 2};
  CHECK(parts({moe::bias_part()}) == "parts");
  CHECK(parts({in}) == "parts");
  CHECK(parts({base, base}) == "parts");
  CHECK(parts({in, sized(MOE_PART_FACTOR_OUT, 3)}) == "size");
  CHECK(parts({sized(MOE_PART_FACTOR_IN, 2, ranks), out}, 8, 2) == "ragged");
  CHECK(parts({sized(MOE_PART_ROWS, 2, far)}, 8, 2) == "ragged");
  CHECK(parts({sized(MOE_PART_ROWS, 5)}) == "size");
  CHECK(parts({sparse(base, 4, 4)}) == "n");
  CHECK(parts({sparse(base, 1, 257)}) == "m");
  CHECK(parts({sparse(moe::integer_part(MOE_I8, MOE_F16, false, 32), 1, 3)}) == "m");
  CHECK(parts({sparse(moe::integer_part(MOE_I8, MOE_F16, true, 32), 2, 4)}) == "offset");
  CHECK(parts({moe::dual_part(MOE_I8, MOE_F16, 32)}) == "outer");
  CHECK(parts({moe::dual_part(MOE_I4, MOE_F16, 0)}) == "group");
  moe_weight_spec shared = spec_of(8, 4, 2);
  shared.base_slots = 2;
  shared.base_of = base_of;
  CHECK(refused({{}, {base}, {}}, shared) == "baseOf");

  const float zeros[32] = {}, ones[4] = {1, 1, 1, 1};
  const auto put = [&](const moe_part &part, int64_t width, int64_t count, const moe_plain &plain) {
    return refused({{}, {part}, {{0, 0, 0, count, plain}}}, spec_of(width, 4));
  };
  const int32_t same[] = {1, 1}, outside[] = {1, 4};
  CHECK(put(rows, 8, 2, floats(zeros, same)) == "index");
  CHECK(put(rows, 8, 2, floats(zeros, outside)) == "index");
  CHECK(put(rows, 8, 2, floats(zeros)) == "index");
  const uint8_t twice[] = {1, 1}, past[] = {1, 4}, good[] = {1, 3};
  CHECK(put(sparse(base, 2, 4), 3, 1, floats(zeros, twice)) == "index");
  CHECK(put(sparse(base, 2, 4), 3, 1, floats(zeros, past)) == "index");
  CHECK(put(sparse(base, 2, 4), 3, 1, floats(ones, good)) == "values");  // input 3 of 3 is not 0
  CHECK(put(sparse(base, 2, 4), 3, 1, floats(zeros, good)) == "rows");   // the other rows are missing
  const uint8_t large[16] = {0x08};                                      // −8 times 16
  const int8_t sixteen[] = {16}, zero[] = {0};
  const float one[] = {1};
  CHECK(put(moe::dual_part(MOE_I4, MOE_F32, 32), 32, 1, {large, sixteen, nullptr, one, nullptr}) == "values");
  CHECK(put(moe::dual_part(MOE_I4, MOE_F32, 32), 32, 1, {large, zero, nullptr, one, nullptr}) == "scale");
}
