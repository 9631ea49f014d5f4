// Linear on the cpu backend, every instruction set forced in turn: against the reference, and bitwise against itself
// for other numbers of rows and threads.
#include "cpu_linear.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

namespace {

using namespace moe::test;

struct Form {
  const char *name;
  moe_part part;
};
std::vector<Form> forms() {
  return {
      {"f32", float_part(MOE_F32)},
      {"f16", float_part(MOE_F16)},
      {"bf16", float_part(MOE_BF16)},
      {"i8 channel f32", integer_part(MOE_I8, 0, MOE_F32)},
      {"i8 128 f16 offset", integer_part(MOE_I8, 128, MOE_F16, true)},
      {"i8 32 f32 offset", integer_part(MOE_I8, 32, MOE_F32, true)},
      {"i4 32 f16 offset", integer_part(MOE_I4, 32, MOE_F16, true)},
      {"i4 64 f32", integer_part(MOE_I4, 64, MOE_F32)},
      {"i4 128 f16 offset", integer_part(MOE_I4, 128, MOE_F16, true)},
      {"i4 channel f16 offset", integer_part(MOE_I4, 0, MOE_F16, true)},
  };
}
bool integer(const moe_part &part) { return part.scale >= 0; }

Case dense(const Bank &bank, int64_t rows, int32_t activation, int32_t mode, bool residual, int *y,
           int32_t dtype = MOE_F32) {
  Case graph;
  const int64_t columns = bank.form.gated ? bank.form.out / 2 : bank.form.out;
  const int x = graph.input(random_array(dtype, {rows, bank.form.in}, 11)), weight = graph.weight(bank);
  const int added = residual ? graph.input(random_array(dtype, {rows, columns}, 12)) : -1;
  *y = graph.output(dtype, {rows, columns}, 5);
  graph.node(MOE_LINEAR, moe_linear{activation, mode, dtype}, {x, weight, -1, -1, added}, {*y});
  return graph;
}

}  // namespace

TEST_CASE("cpu linear: every form and mode at awkward sizes agrees with the reference") {
  struct Size {
    int64_t rows, in, out;
  };
  for (const Form &form : forms()) {
    for (const Size &size :
         {Size{1, 37, 5}, {3, 511, 33}, {13, 704, 70}, {25, 64, 32}, {2, 1, 1}, {7, 136, 17}, {0, 40, 8}}) {
      for (const int32_t mode : {MOE_EXACT, MOE_INT8}) {
        if (mode == MOE_INT8 && !integer(form.part)) continue;
        CAPTURE(form.name);
        CAPTURE(size.in);
        CAPTURE(size.rows);
        CAPTURE(mode);
        int y = 0;
        const Bank bank = random_bank({size.in, size.out, 1, false, form.part, size.out % 2 == 1}, 3);
        compare(dense(bank, size.rows, MOE_NONE, mode, size.rows % 2 == 1, &y), y);
      }
    }
  }
}

TEST_CASE("cpu linear: a long row, many rows") {
  for (const Form &form : forms()) {
    CAPTURE(form.name);
    const int32_t mode = integer(form.part) ? MOE_INT8 : MOE_EXACT;
    int y = 0;
    compare(dense(random_bank({2880, 48, 1, false, form.part}, 4), 5, MOE_NONE, mode, false, &y), y, 5e-5);
    compare(dense(random_bank({160, 40, 1, false, form.part}, 4), 1100, MOE_NONE, mode, false, &y), y);
  }
}

TEST_CASE("cpu linear: channel groups longer than one int32 sum") {
  for (const int32_t store : {MOE_I8, MOE_I4}) {
    const int64_t in = 140'003;
    Bank bank = random_bank({in, 3, 1, false, integer_part(store, 0, MOE_F32, true)}, 5);
    for (std::byte &code : bank.slots[0].values)
      code = static_cast<std::byte>(store == MOE_I8 ? 0x7f : 0x77);  // all at the edge
    Case graph;
    const int x = graph.input(filled(MOE_F32, {2, in}, 1.0)), weight = graph.weight(bank),
              y = graph.output(MOE_F32, {2, 3});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_INT8, MOE_F32}, {x, weight}, {y});
    const Array expected = run(moe_backend_reference(), graph)[static_cast<size_t>(y)];
    for (const std::string &isa : instruction_sets()) {
      const Array result = run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)];
      for (int64_t i = 0; i < 6; ++i) CHECK(result.at(i) == doctest::Approx(expected.at(i)).epsilon(1e-5));
    }
  }
}

TEST_CASE("cpu linear: activations, gated banks, biases, residuals, 16-bit operands") {
  for (const Form &form : {forms()[0], forms()[3], forms()[6]}) {
    for (const int32_t activation : {MOE_NONE, MOE_RELU, MOE_GELU, MOE_GELU_TANH, MOE_SILU, MOE_SWIGLU, MOE_GEGLU}) {
      const bool gated = activation >= MOE_SWIGLU;
      for (const int64_t out : {10, 38, 96}) {
        CAPTURE(form.name);
        CAPTURE(activation);
        int y = 0;
        const Bank bank = random_bank({72, out, 1, gated, form.part, true}, 6);
        compare(dense(bank, 9, activation, MOE_EXACT, true, &y), y);
        compare(dense(bank, 9, activation, MOE_EXACT, true, &y, MOE_BF16), y, 0.01);
        compare(dense(bank, 9, activation, MOE_EXACT, true, &y, MOE_F16), y, 0.002);
      }
    }
  }
}

TEST_CASE("cpu linear: grouped, ragged, gathered, one hot slot, empty slots, rows past the end stay") {
  for (const Form &form : forms()) {
    for (const bool gated : {false, true}) {
      const std::vector<int64_t> widths =
          gated ? std::vector<int64_t>{70, 0, 70, 34, 2} : std::vector<int64_t>{70, 0, 69, 33, 1};
      const Bank bank = random_bank({90, 70, 5, gated, form.part, true, {90, 90, 37, 90, 64}, widths}, 7);
      for (const auto &offsets : {std::vector<double>{0, 130, 132, 140, 141, 145},
                                  {0, 0, 0, 0, 0, 0},
                                  {0, 3, 3, 3, 9, 9},
                                  {-5, 400, 2, 9, 9, 1e6},
                                  {2, 4, 6, 8, 10, 12}}) {
        for (const int32_t mode : {MOE_EXACT, MOE_INT8}) {
          if (mode == MOE_INT8 && !integer(form.part)) continue;
          CAPTURE(form.name);
          CAPTURE(gated);
          CAPTURE(mode);
          Case graph;
          const int x = graph.input(random_array(MOE_F32, {20, 90}, 8)), weight = graph.weight(bank);
          const int token_of = graph.input(random_integers({150}, 9, -1, 20)), at = graph.input(i32({6}, offsets));
          const int y = graph.output(MOE_F32, {150, gated ? 35 : 70}, 77);
          const int32_t activation = gated ? MOE_SWIGLU : MOE_NONE;
          graph.node(MOE_LINEAR, moe_linear{activation, mode, MOE_F32}, {x, weight, token_of, at}, {y});
          compare(graph, y);
        }
      }
    }
  }
}

TEST_CASE("cpu linear: a row is bitwise the same alone, among 64, and on 1, 2 or 5 threads") {
  for (const std::string &isa : instruction_sets()) {
    for (const Form &form : forms()) {
      for (const int32_t mode : {MOE_EXACT, MOE_AUTO}) {
        CAPTURE(isa);
        CAPTURE(form.name);
        constexpr int64_t rows = 64, in = 1100, out = 100;
        const Array inputs = random_array(MOE_F32, {rows, in}, 21);
        Case graph;
        const int32_t tokens = graph.symbol_of(rows);
        const int x = graph.input(inputs, {symbol(tokens), in}),
                  weight = graph.weight(random_bank({in, out, 1, true, form.part, true}, 22));
        const int y = graph.output(MOE_F32, {symbol(tokens), out / 2});
        graph.node(MOE_LINEAR, moe_linear{MOE_SWIGLU, mode, MOE_F32}, {x, weight}, {y});
        const auto all = run(moe_backend_cpu(), graph, options(isa, 1).c_str())[static_cast<size_t>(y)].bytes;
        for (const int threads : {2, 5}) {
          CHECK(run(moe_backend_cpu(), graph, options(isa, threads).c_str())[static_cast<size_t>(y)].bytes == all);
        }
        Session alone(moe_backend_cpu(), graph, options(isa).c_str());
        bool equal = true;
        for (int64_t row = 0; row < rows; ++row) {
          Array one{MOE_F32, {1, in}, {}};
          one.bytes.assign(inputs.bytes.begin() + row * in * 4, inputs.bytes.begin() + (row + 1) * in * 4);
          alone.write(x, one);
          alone.run({1});
          const Array result = alone.read(y);
          equal = equal && std::equal(result.bytes.begin(), result.bytes.end(), all.begin() + row * out / 2 * 4);
        }
        CHECK(equal);
      }
    }
  }
}

TEST_CASE("cpu linear: rows of a result too large for the caches are bitwise those of a small one") {
  for (const std::string &isa : instruction_sets()) {
    for (const int64_t out : {11008, 11005}) {  // rows that begin at whole lines, and that do not
      CAPTURE(isa);
      CAPTURE(out);
      constexpr int64_t rows = 600, few = 5, in = 8;
      const Bank bank = random_bank({in, out, 1, false, float_part(MOE_F32)}, 31);
      const Array inputs = random_array(MOE_F32, {rows, in}, 32);
      const Array last{MOE_F32, {few, in}, {inputs.bytes.end() - few * in * 4, inputs.bytes.end()}};
      const auto product = [&](const Array &x) {
        Case graph;
        const int input = graph.input(x), weight = graph.weight(bank);
        const int y = graph.output(MOE_F32, {x.shape[0], out});
        graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_EXACT, MOE_F32}, {input, weight}, {y});
        return run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)].bytes;
      };
      const auto all = product(inputs), some = product(last);
      CHECK(std::equal(some.begin(), some.end(), all.end() - few * out * 4));
    }
  }
}

TEST_CASE("cpu linear: non-finite inputs stay in their row") {
  for (const std::string &isa : instruction_sets()) {
    for (const int32_t mode : {MOE_EXACT, MOE_INT8}) {
      Array inputs = random_array(MOE_F32, {3, 64}, 31);
      inputs.set(64 + 5, std::nan(""));
      inputs.set(128 + 7, HUGE_VAL);
      Case graph;
      const int x = graph.input(inputs),
                weight = graph.weight(random_bank({64, 8, 1, false, integer_part(MOE_I4, 32)}, 32));
      const int y = graph.output(MOE_F32, {3, 8});
      graph.node(MOE_LINEAR, moe_linear{MOE_NONE, mode, MOE_F32}, {x, weight}, {y});
      const Array result = run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)];
      for (int64_t n = 0; n < 8; ++n) {
        CHECK(std::isfinite(result.at(n)));
        CHECK(std::isnan(result.at(8 + n)));
        CHECK(!std::isfinite(result.at(16 + n)));
      }
    }
  }
}
