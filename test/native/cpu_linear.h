// Linear graphs on the cpu backend with every instruction set in turn, against the reference.
#pragma once
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_cpu(void);
extern "C" const moe_backend *moe_backend_reference(void);

namespace moe::test {

inline std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const char *name :
       {"amx", "avx512bf16", "avx512vbmi", "avx512", "avx2vnni", "avx2", "neon-i8mm", "neon", "plain", "amx-twin"}) {
    moe_device *device = nullptr;
    moe_error error{};
    if (moe_backend_cpu()->open(0, (std::string("isa=") + name).c_str(), &device, &error) != MOE_OK) continue;
    moe_backend_cpu()->release(MOE_KIND_DEVICE, device);
    names.emplace_back(name);
  }
  return names;
}

inline std::string options(const std::string &isa, int threads = 2) {
  return "isa=" + isa + "\nthreads=" + std::to_string(threads);
}

inline void compare(const Case &graph, int y, double bound = 2e-5) {
  const Array expected = run(moe_backend_reference(), graph)[static_cast<size_t>(y)];
  for (const std::string &isa : instruction_sets()) {
    CAPTURE(isa);
    CHECK(difference(run(moe_backend_cpu(), graph, options(isa).c_str())[static_cast<size_t>(y)], expected) < bound);
  }
}

}  // namespace moe::test
