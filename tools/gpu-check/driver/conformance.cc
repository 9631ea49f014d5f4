#include "conformance.h"

#include <cstdio>
#include <map>
#include <optional>
#include <vector>

#include "check_case.h"
#include "moe/error.h"

namespace moe::gpu_check {
namespace {

using test::Array;

// What a device wrote in every run, by value.
using Results = std::vector<std::map<int, Array>>;

Results results_of(const moe_backend &backend, const CheckCase &subject) {
  test::Session session(&backend, subject.graph);
  session.profiled = false;  // so that runs are captured and replayed where the device does so
  std::vector<std::vector<int64_t>> runs = subject.runs;
  for (int i = 0; i < 2; ++i) runs.push_back(subject.graph.max_sizes);
  Results results;
  for (const std::vector<int64_t> &sizes : runs) {
    session.run(sizes);
    std::map<int, Array> &written = results.emplace_back();
    for (int value = 0; value < static_cast<int>(subject.graph.values.size()); ++value) {
      const int32_t role = subject.graph.values[static_cast<size_t>(value)].role;
      if (role == MOE_ROLE_OUTPUT || role == MOE_ROLE_STATE) written.emplace(value, session.read(value));
    }
  }
  return results;
}

std::string difference(const CheckCase &subject, const Results &actual, const Results &expected) {
  for (size_t run = 0; run < expected.size(); ++run) {
    for (const auto &[value, wanted] : expected[run]) {
      int64_t elements = wanted.size();
      if (const auto below = subject.rows_below.find(value); below != subject.rows_below.end()) {
        const Array &offsets = expected[run].at(below->second);
        const int64_t rows = test::elements({wanted.shape[0]}, {});
        elements = rows == 0 ? 0 : elements / rows * static_cast<int64_t>(offsets.at(offsets.size() - 1));
      }
      const std::string wrong =
          compare(actual[run].at(value), wanted, subject.bound, subject.k, [&](int64_t i) { return i < elements; });
      if (!wrong.empty()) return "run " + std::to_string(run) + ", value " + std::to_string(value) + wrong;
    }
  }
  return "";
}

std::string text_of(const moe_error &error) {
  return std::string(error.argument) + ": expected " + error.expected + ", received " + error.received;
}

}  // namespace

int run_conformance(const moe_backend &device, const moe_backend &against, const ConformanceOptions &options) {
  int failures = 0, passed_in_all = 0;
  for (const Family &family : families()) {
    if (!options.only.empty() && options.only != family.operation) continue;
    int passed = 0, failed = 0;
    std::map<std::string, int> refused;
    for (int i = 0; i < options.cases * family.weight; ++i) {
      Random random(options.seed * 1000003u + static_cast<uint32_t>(i) * 97u +
                    static_cast<uint32_t>(family.operation[0]));
      const CheckCase subject = family.generator(random);
      if (options.verbose) std::printf("  %s %d: %s\n", family.operation, i, subject.name.c_str());
      std::string wrong;
      try {
        const Results actual = results_of(device, subject);
        wrong = difference(subject, actual, results_of(against, subject));
      } catch (const Error &error) {
        if (error.get().code == MOE_UNSUPPORTED) {
          ++refused[text_of(error.get())];
          continue;
        }
        wrong = text_of(error.get());
      }
      ++(wrong.empty() ? passed : failed);
      if (!wrong.empty())
        std::printf("FAILED %s %d (%s): %s\n", family.operation, i, subject.name.c_str(), wrong.c_str());
    }
    std::printf("%-11s %d passed, %d failed", family.operation, passed, failed);
    for (const auto &[why, count] : refused) std::printf(", %d refused (%s)", count, why.c_str());
    std::printf("\n");
    std::fflush(stdout);
    failures += failed;
    passed_in_all += passed;
  }
  std::printf("conformance of %s against %s: %d passed, %d failed\n", device.name, against.name, passed_in_all,
              failures);
  return failures;
}

}  // namespace moe::gpu_check
