// Banks of several parts on the cpu backend: low-rank factors, kept rows, n:m sparse, shared bases, dual-grained scales;
// against the reference, and bitwise against themselves.
#include <deque>
#include <limits>

#include "cpu_linear.h"
#include "moe/part.h"

namespace {

using namespace moe::test;

// A bank of any parts with random content, put row by row from the last on; it owns what its plain rows point to.
class RandomParts {
 public:
  RandomParts(const moe_weight_spec &spec, const std::vector<moe_part> &parts, uint32_t seed) : generator_(seed) {
    bank.spec = spec;
    bank.parts = parts;
    for (size_t p = 0; p < parts.size(); ++p) {
      const bool shared = parts[p].kind == MOE_PART_BASE && spec.base_of != nullptr;
      for (int32_t s = 0; s < (shared ? spec.base_slots : spec.slots); ++s) add(static_cast<int32_t>(p), s);
    }
  }
  PlainBank bank;

 private:
  void add(int32_t p, int32_t slot) {
    const moe_part &part = bank.parts[static_cast<size_t>(p)];
    const int64_t in = bank.spec.in_of ? bank.spec.in_of[slot] : bank.spec.in,
                  out = bank.spec.out_of ? bank.spec.out_of[slot] : bank.spec.out;
    const int64_t rows = moe::part_rows(part, slot, out), columns = moe::part_columns(part, slot, in);
    const moe::RowBytes each = moe::row_bytes(part, columns);
    std::normal_distribution<double> normal(0, 1 / std::sqrt(static_cast<double>(std::max<int64_t>(columns, 1))));
    std::uniform_int_distribution<int> any(0, 255), inner(1, 15);
    std::uniform_real_distribution<double> near_one(0.5, 1.5);
    for (int64_t row = rows; row-- > 0;) {
      Array values = filled(moe::integer_store(part.store) ? MOE_U8 : part.store, {1, columns});
      if (moe::integer_store(part.store)) {
        values.bytes.resize(static_cast<size_t>(each.values));
        for (std::byte &one : values.bytes) one = static_cast<std::byte>(any(generator_));
      } else {
        for (int64_t i = 0; i < columns; ++i) values.set(i, normal(generator_));
      }
      const int64_t groups = part.scale < 0 ? 0 : moe::group_count(part, columns);
      const double range = (part.store == MOE_I8 ? 74.0 : 4.6) * std::sqrt(static_cast<double>(in));
      Array scale = filled(part.scale < 0 ? MOE_F32 : part.scale, {groups});
      for (int64_t g = 0; g < groups; ++g)
        scale.set(g, part.outer >= 0 ? inner(generator_) : near_one(generator_) / range);
      Array offset = filled(part.offset < 0 ? MOE_F32 : part.offset, {part.offset < 0 ? 0 : groups});
      for (int64_t g = 0; g < offset.size(); ++g) offset.set(g, normal(generator_) * 0.1);
      Array outer = filled(part.outer < 0 ? MOE_F32 : part.outer, {part.outer < 0 ? 0 : 1}, 0.1 / range);
      Array index = part.kind == MOE_PART_SPARSE ? places(part, in, values.bytes) : filled(MOE_I32, {1}, 0);
      if (part.kind == MOE_PART_ROWS) index.set(0, static_cast<double>(row * out / rows));
      const auto keep = [&](Array &array) -> const void * {
        return memory_.emplace_back(std::move(array.bytes)).data();
      };
      bank.pieces.push_back({p, slot, row, 1, {keep(values), keep(scale), keep(offset), keep(outer), keep(index)}});
    }
  }
  // Places of one row, and zeros for the values whose places lie past the inputs.
  Array places(const moe_part &part, int64_t in, std::vector<std::byte> &values) {
    const int64_t blocks = moe::ceil_divide(in, part.m);
    Array index = filled(MOE_U8, {blocks * part.n}, 0);
    for (int64_t b = 0; b < blocks; ++b) {
      const auto inputs = static_cast<int>(std::clamp<int64_t>(in - b * part.m, part.n, part.m));
      int place = 0;
      for (int j = 0; j < part.n; ++j, ++place) {
        place = std::uniform_int_distribution<int>(place, inputs - part.n + j)(generator_);
        const int64_t value = b * part.n + j, bits = moe::dtype_bytes(part.store, 8);
        index.bytes[static_cast<size_t>(value)] = static_cast<std::byte>(place);
        if (b * part.m + place < in) continue;
        if (part.store == MOE_I4) {
          values[static_cast<size_t>(value / 2)] &= std::byte(value % 2 == 0 ? 0xf0 : 0x0f);
        } else {
          std::fill_n(values.begin() + value * bits / 8, bits / 8, std::byte{0});
        }
      }
    }
    return index;
  }

  std::mt19937 generator_;
  std::deque<std::vector<std::byte>> memory_;
};

moe_part part_as(int32_t kind, moe_part part, int32_t size = 0, const int32_t *ragged = nullptr) {
  part.kind = kind;
  part.size = size;
  part.ragged = ragged;
  return part;
}
moe_part sparse_part(int32_t n, int32_t m, moe_part part) {
  part.kind = MOE_PART_SPARSE;
  part.n = n;
  part.m = m;
  return part;
}

// Every part alone, and all together.
std::vector<std::pair<const char *, std::vector<moe_part>>> part_forms(const int32_t *ragged) {
  const moe_part a = part_as(MOE_PART_FACTOR_IN, float_part(MOE_BF16), 40, ragged),
                 b = part_as(MOE_PART_FACTOR_OUT, float_part(MOE_F16), 40, ragged);
  const moe_part i8 = integer_part(MOE_I8, 0, MOE_F32), i4 = integer_part(MOE_I4, 32);
  return {
      {"low rank", {a, b}},
      {"kept rows bf16", {part_as(MOE_PART_ROWS, float_part(MOE_BF16), 40, ragged)}},
      {"kept rows i4 offset", {part_as(MOE_PART_ROWS, integer_part(MOE_I4, 32, MOE_F16, true), 40, ragged)}},
      {"2:4 i4", {sparse_part(2, 4, i4)}},
      {"2:4 f32", {sparse_part(2, 4, float_part(MOE_F32))}},
      {"1:8 i8", {sparse_part(1, 8, i8)}},
      {"3:4 i8", {sparse_part(3, 4, integer_part(MOE_I8, 64))}},
      {"5:32 i4", {sparse_part(5, 32, i4)}},
      {"7:20 f16", {sparse_part(7, 20, float_part(MOE_F16))}},
      {"7:20 i8", {sparse_part(7, 20, i8)}},
      {"dual", {moe::dual_part(MOE_I4, MOE_F16, 32)}},
      {"all",
       {sparse_part(2, 4, i8), part_as(MOE_PART_ROWS, i4, 40, ragged), b, moe::bias_part(), a,
        moe::dual_part(MOE_I4, MOE_F32, 64)}},
  };
}

// y [rows, out] = values · the bank.
Case product(const Array &values, const RandomParts &weights, int32_t mode, int *y) {
  Case graph;
  const int x = graph.input(values), weight = graph.weight(weights.bank);
  *y = graph.output(MOE_F32, {values.shape[0], weights.bank.spec.out});
  graph.node(MOE_LINEAR, moe_linear{MOE_NONE, mode, MOE_F32}, {x, weight}, {*y});
  return graph;
}

bool integer(const std::vector<moe_part> &parts) {
  return std::any_of(parts.begin(), parts.end(), [](const moe_part &part) { return part.scale >= 0; });
}

}  // namespace

TEST_CASE("cpu parts: they come back value for value, whatever the order of their rows") {
  constexpr int64_t in = 90, out = 86;
  for (const auto &[name, parts] : part_forms(nullptr)) {
    for (const int32_t gated : {0, 1}) {
      CAPTURE(name);
      CAPTURE(gated);
      const RandomParts weights({in, out, 1, gated, 0, nullptr, nullptr, nullptr, 0, nullptr}, parts, 41);
      Array identity = filled(MOE_F32, {in, in});
      for (int64_t i = 0; i < in; ++i) identity.set(i * in + i, 1);
      Case graph;
      const int x = graph.input(identity), weight = graph.weight(weights.bank),
                y = graph.output(MOE_F32, {in, gated ? out / 2 : out});
      graph.node(MOE_LINEAR, moe_linear{gated ? MOE_SWIGLU : MOE_NONE, MOE_EXACT, MOE_F32}, {x, weight}, {y});
      compare(graph, y, 1e-6);
    }
  }
}

TEST_CASE("cpu parts: slots of their own sizes, and a row is bitwise the same alone") {
  const int32_t ragged[] = {40, 0, 3, 33, 1};
  const int64_t in_of[] = {90, 90, 26, 90, 58}, out_of[] = {86, 2, 86, 40, 62};
  const std::vector<double> starts{0, 30, 30, 31, 44, 50};
  for (const auto &[name, parts] : part_forms(ragged)) {
    for (const int32_t gated : {0, 1}) {
      for (const int32_t mode : {MOE_EXACT, MOE_INT8}) {
        if (mode == MOE_INT8 && !integer(parts)) continue;
        CAPTURE(name);
        CAPTURE(gated);
        CAPTURE(mode);
        const RandomParts weights({90, 86, 5, gated, 0, in_of, out_of, nullptr, 0, nullptr}, parts, 42);
        const auto graph_of = [&](const std::vector<double> &offsets, int *y) {
          Case graph;
          const int x = graph.input(random_array(MOE_F32, {20, 90}, 43)), weight = graph.weight(weights.bank);
          const int token_of = graph.input(random_integers({50}, 44, -1, 20)), at = graph.input(i32({6}, offsets));
          *y = graph.output(MOE_F32, {50, gated ? 43 : 86}, 7);
          graph.node(MOE_LINEAR, moe_linear{gated ? MOE_GEGLU : MOE_NONE, mode, MOE_F32}, {x, weight, token_of, at},
                     {*y});
          return graph;
        };
        int y = 0;
        const Case graph = graph_of(starts, &y);
        compare(graph, y);
        // Row 17, in slot 0, with no other.
        const Case alone = graph_of({17, 18, 18, 18, 18, 18}, &y);
        for (const std::string &isa : instruction_sets()) {
          const auto row = [&](const Case &of, int threads) {
            const auto bytes = run(moe_backend_cpu(), of, options(isa, threads).c_str())[static_cast<size_t>(y)].bytes;
            const auto width = static_cast<int64_t>(bytes.size()) / 50;
            return std::vector<std::byte>(bytes.begin() + 17 * width, bytes.begin() + 18 * width);
          };
          CHECK(row(alone, 1) == row(graph, 5));
        }
      }
    }
  }
}

TEST_CASE("cpu parts: n:m in bf16 gives a row the same bits beside any others, not finite ones too") {
  constexpr int64_t rows = 40, out = 86;
  for (const auto &[n, m] : {std::pair{2, 4}, {1, 2}, {1, 8}, {4, 16}, {9, 32}, {3, 7}, {2, 64}}) {
    for (const int64_t in : {90, 545}) {
      CAPTURE(m);
      CAPTURE(in);
      const RandomParts weights({in, out, 1, 0, 0, nullptr, nullptr, nullptr, 0, nullptr},
                                {sparse_part(n, m, float_part(MOE_BF16))}, 48);
      const auto graph_of = [&](const Array &values, int *y) { return product(values, weights, MOE_AUTO, y); };
      int y = 0;
      Array inputs = random_array(MOE_BF16, {rows, in}, 49);
      compare(graph_of(inputs, &y), y);
      const Array finite = inputs;
      inputs.set(17 * in + in - 1, std::numeric_limits<double>::infinity());
      inputs.set(33 * in + 4, std::numeric_limits<double>::quiet_NaN());
      for (const std::string &isa : instruction_sets()) {
        CAPTURE(isa);
        const auto of = [&](const Array &values) {
          const Case graph = graph_of(values, &y);
          return run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)].bytes;
        };
        const auto all = of(finite), beside = of(inputs);
        for (const int64_t count : {1, 4, 5, 39}) {
          CAPTURE(count);
          const Array some{MOE_BF16, {count, in}, {finite.bytes.begin(), finite.bytes.begin() + count * in * 2}};
          const auto few = of(some);
          CHECK(std::equal(few.begin(), few.end(), all.begin()));
        }
        for (int64_t row = 0; row < rows; ++row) {
          if (row == 17 || row == 33) continue;
          CAPTURE(row);
          const auto at = row * out * 4;
          CHECK(std::equal(all.begin() + at, all.begin() + at + out * 4, beside.begin() + at));
        }
      }
    }
  }
}

TEST_CASE("cpu parts: dual-grained rows longer than one int32 sum, and such a row is bitwise the same alone") {
  const int64_t in = 66'000, out = 2, rows = 18;
  const RandomParts weights({in, out, 1, 0, 0, nullptr, nullptr, nullptr, 0, nullptr},
                            {moe::dual_part(MOE_I4, MOE_F32, 128)}, 46);
  const Array inputs = random_array(MOE_F32, {rows, in}, 47);
  const auto graph_of = [&](const Array &values, int *y) { return product(values, weights, MOE_INT8, y); };
  int y = 0;
  const Case graph = graph_of(inputs, &y);
  compare(graph, y, 5e-5);
  Array last{MOE_F32, {1, in}, {inputs.bytes.end() - in * 4, inputs.bytes.end()}};
  const Case alone = graph_of(last, &y);
  for (const std::string &isa : instruction_sets()) {
    CAPTURE(isa);
    const auto all = run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)].bytes;
    const auto one = run(moe_backend_cpu(), alone, options(isa).c_str())[static_cast<size_t>(y)].bytes;
    CHECK(std::equal(one.begin(), one.end(), all.end() - out * 4));
  }
}

TEST_CASE("cpu parts: slots of a shared base run together, each with its own parts") {
  const int32_t base_of[] = {1, 0, 1, 1, 0, 2, 2};
  const moe_part i8 = integer_part(MOE_I8, 32);
  for (const moe_part &base : {float_part(MOE_BF16), integer_part(MOE_I4, 32, MOE_F16, true)}) {
    const RandomParts weights({90, 86, 7, 0, 0, nullptr, nullptr, nullptr, 3, base_of},
                              {base, part_as(MOE_PART_FACTOR_IN, float_part(MOE_F32), 9),
                               part_as(MOE_PART_FACTOR_OUT, float_part(MOE_BF16), 9), sparse_part(1, 8, i8)},
                              45);
    for (const int32_t mode : {MOE_EXACT, MOE_INT8}) {
      Case graph;
      const int x = graph.input(random_array(MOE_F32, {240, 90}, 46)), weight = graph.weight(weights.bank);
      const int at = graph.input(i32({8}, {0, 3, 50, 51, 140, 150, 150, 240}));
      const int y = graph.output(MOE_F32, {240, 86});
      graph.node(MOE_LINEAR, moe_linear{MOE_NONE, mode, MOE_F32}, {x, weight, -1, at}, {y});
      compare(graph, y);
    }
  }
}

TEST_CASE("cpu parts: a part that is not whole, and kept rows that do not ascend, are refused") {
  moe_device *device = nullptr;
  moe_error error{};
  const moe_backend *const backend = moe_backend_cpu();
  REQUIRE(backend->open(0, "", &device, &error) == MOE_OK);
  const float rows[] = {1, 2, 3, 4};
  const int32_t ascending[] = {1, 3}, descending[] = {3, 1};
  const moe_part part = part_as(MOE_PART_ROWS, float_part(MOE_F32), 2);
  const moe_weight_spec spec{2, 4, 1, 0, 1, nullptr, nullptr, &part, 0, nullptr};
  const auto finish = [&](const int32_t *index, int64_t count) {
    moe_weight *weight = nullptr;
    size_t bytes = 0;
    REQUIRE(backend->weight_begin(device, &spec, &weight, &error) == MOE_OK);
    const moe_plain plain{rows, nullptr, nullptr, nullptr, index};
    REQUIRE(backend->weight_put(weight, 0, 0, 0, count, &plain, &error) == MOE_OK);
    const int code = backend->weight_finish(weight, &bytes, &error);
    backend->release(MOE_KIND_WEIGHT, weight);
    return code;
  };
  CHECK(finish(ascending, 2) == MOE_OK);
  CHECK(finish(ascending, 1) == MOE_INVALID_ARGUMENT);
  CHECK(std::string(error.argument) == "rows");
  CHECK(finish(descending, 2) == MOE_INVALID_ARGUMENT);
  CHECK(std::string(error.argument) == "index");
  backend->release(MOE_KIND_DEVICE, device);
}
