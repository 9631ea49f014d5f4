// How the cpu kernels are judged: against the reference, on every instruction set of this machine, with one thread and
// two (same bits), all rows at once and row by row (same bits), and with no rows at all.
#pragma once
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "backend_harness.h"

extern "C" {
const moe_backend *moe_backend_reference(void);
const moe_backend *moe_backend_cpu(void);
}

namespace moe::test {

// Those whose kernels differ outside linear.
inline std::vector<std::string> operation_sets() {
  std::vector<std::string> names;
  for (const char *name : {"plain", "avx2", "avx2vnni", "avx512", "neon", "neon-i8mm"}) {
    moe_device *device = nullptr;
    moe_error error{};
    if (moe_backend_cpu()->open(0, (std::string("isa=") + name).c_str(), &device, &error) != MOE_OK) continue;
    moe_backend_cpu()->release(MOE_KIND_DEVICE, device);
    names.emplace_back(name);
  }
  return names;
}

inline bool kept(const Case::Value &value) { return value.role == MOE_ROLE_OUTPUT || value.role == MOE_ROLE_STATE; }

// Runs the graph once for each of its tokens (symbol 0), each time with that token's rows; outputs joined, states as
// they end.
inline std::vector<Array> run_alone(const Case &graph, const std::string &options) {
  Session session(moe_backend_cpu(), graph, options.c_str());
  std::vector<Array> results(graph.values.size());
  const auto by_token = [&](size_t i) {
    const Case::Value &value = graph.values[i];
    return !value.shape.empty() && value.shape[0].symbol == 0;
  };
  for (int64_t t = 0; t < graph.max_sizes[0]; ++t) {
    for (size_t i = 0; i < graph.values.size(); ++i) {
      const Case::Value &value = graph.values[i];
      if (value.role != MOE_ROLE_INPUT || !by_token(i)) continue;
      const auto bytes = static_cast<int64_t>(value.data.bytes.size()) / graph.max_sizes[0];
      Array row{value.dtype, value.shape, {}};
      row.bytes.assign(value.data.bytes.begin() + t * bytes, value.data.bytes.begin() + (t + 1) * bytes);
      session.write(static_cast<int>(i), row);
    }
    session.run({1});
    for (size_t i = 0; i < graph.values.size(); ++i) {
      if (graph.values[i].role != MOE_ROLE_OUTPUT || !by_token(i)) continue;
      const Array row = session.read(static_cast<int>(i));
      results[i].dtype = row.dtype;
      results[i].bytes.insert(results[i].bytes.end(), row.bytes.begin(), row.bytes.end());
    }
  }
  for (size_t i = 0; i < graph.values.size(); ++i)
    if (graph.values[i].role == MOE_ROLE_STATE) results[i] = session.read(static_cast<int>(i));
  return results;
}

// Symbol 0 is the tokens. row_by_row: the operation promises that a row depends on itself alone.
inline void judge(const Case &graph, double tolerance, bool row_by_row = true) {
  const std::vector<Array> expected = run(moe_backend_reference(), graph);
  for (const std::string &isa : operation_sets()) {
    CAPTURE(isa);
    const std::vector<Array> once = run(moe_backend_cpu(), graph, ("isa=" + isa + "\nthreads=1").c_str());
    const std::vector<Array> twice = run(moe_backend_cpu(), graph, ("isa=" + isa + "\nthreads=2").c_str());
    const std::vector<Array> none =
        run(moe_backend_cpu(), graph, ("isa=" + isa).c_str(), std::vector<int64_t>(graph.max_sizes.size(), 0));
    std::vector<Array> alone;
    if (row_by_row) alone = run_alone(graph, "isa=" + isa + "\nthreads=2");
    for (size_t i = 0; i < graph.values.size(); ++i) {
      if (!kept(graph.values[i])) continue;
      CAPTURE(i);
      CHECK(difference(once[i], expected[i]) <= tolerance);
      CHECK((once[i].bytes == twice[i].bytes));
      if (row_by_row) CHECK((once[i].bytes == alone[i].bytes));
      if (graph.values[i].role == MOE_ROLE_STATE) CHECK((none[i].bytes == graph.values[i].data.bytes));
    }
  }
}

}  // namespace moe::test
