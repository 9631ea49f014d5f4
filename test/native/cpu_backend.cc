// The cpu backend's own promises: the forced instruction set is the one that runs, options, memory, cancel, errors at
// the wait.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_cpu(void);

namespace {

using namespace moe::test;

struct Opened {
  explicit Opened(const char *options) { code = moe_backend_cpu()->open(0, options, &device, &error); }
  Opened(const Opened &) = delete;
  ~Opened() {
    if (device) moe_backend_cpu()->release(MOE_KIND_DEVICE, device);
  }
  std::string describe() const {
    char json[1024];
    moe_error failed{};
    return moe_backend_cpu()->describe(device, json, sizeof json, &failed) == MOE_OK ? json : "";
  }
  moe_device *device = nullptr;
  moe_error error{};
  int code;
};

Case doubled(int *y) {
  Case graph;
  const int x = graph.input(f32({2, 2}, {1, 2, 3, 4}));
  *y = graph.output(MOE_F32, {2, 2});
  graph.node(MOE_MAP, moe_map{MOE_FUNCTION_SCALE, 2, 0}, {x}, {*y});
  return graph;
}

}  // namespace

TEST_CASE("cpu: the forced instruction set is the one that is used; an unknown one lists those there are") {
  for (const char *name :
       {"amx", "avx512bf16", "avx512vbmi", "avx512", "avx2vnni", "avx2", "neon-i8mm", "neon", "plain", "amx-twin"}) {
    const Opened opened((std::string("isa=") + name).c_str());
    if (opened.code == MOE_OK) {
      CHECK(opened.describe().find(std::string("\"isa\":\"") + name + "\"") != std::string::npos);
    } else {
      CHECK(opened.code == MOE_INVALID_ARGUMENT);
      CHECK(std::string(opened.error.expected).find("plain") != std::string::npos);
    }
  }
  const Opened unknown("isa=mmx");
  CHECK(unknown.code == MOE_INVALID_ARGUMENT);
  CHECK(std::string(unknown.error.argument) == "isa");
  CHECK(std::string(unknown.error.expected).find("plain") != std::string::npos);
  CHECK(std::string(unknown.error.received) == "mmx");

  setenv("NODE_MOE_ISA", "plain", 1);
  CHECK(Opened("").describe().find("\"isa\":\"plain\"") != std::string::npos);
  setenv("NODE_MOE_ISA", "mmx", 1);
  CHECK(std::string(Opened("").error.argument) == "NODE_MOE_ISA");
  unsetenv("NODE_MOE_ISA");
}

#if defined(__x86_64__)
TEST_CASE("cpu: Intel's processors take pairs of bf16 only when asked to, AMD's without") {
  if (Opened("isa=avx512bf16").code != MOE_OK || Opened("isa=amx").code == MOE_OK) return;
  const bool chosen = Opened("").describe().find("\"isa\":\"avx512bf16\"") != std::string::npos;
  CHECK(chosen == !__builtin_cpu_is("intel"));
}
#endif

TEST_CASE("cpu: options") {
  CHECK(Opened("threads=3\nmemoryLimit=1000").describe().find("\"threads\":3") != std::string::npos);
  for (const char *wrong :
       {"threads=0", "threads=x", "threads=", "threads", "memoryLimit=-1", "speed=9", "=", "threads=99999"}) {
    CAPTURE(wrong);
    CHECK(Opened(wrong).code == MOE_INVALID_ARGUMENT);
  }
  moe_device *device = nullptr;
  moe_error error{};
  CHECK(moe_backend_cpu()->open(1, "", &device, &error) == MOE_DEVICE_UNAVAILABLE);
  const Opened opened("");
  char small[4];
  CHECK(moe_backend_cpu()->describe(opened.device, small, sizeof small, &error) == MOE_INVALID_ARGUMENT);
}

TEST_CASE("cpu: memory is counted and limited") {
  const Opened opened("memoryLimit=1000");
  const moe_backend *backend = moe_backend_cpu();
  moe_error error{};
  moe_buffer *a = nullptr, *b = nullptr;
  CHECK(backend->allocate(opened.device, 600, &a, &error) == MOE_OK);
  CHECK(reinterpret_cast<uintptr_t>(backend->host_address(a)) % 64 == 0);
  CHECK(backend->allocate(opened.device, 600, &b, &error) == MOE_OUT_OF_MEMORY);
  CHECK(std::string(error.argument) == "memoryLimit");
  moe_memory memory{};
  backend->memory(opened.device, &memory, &error);
  CHECK(memory.held == 600);
  backend->release(MOE_KIND_BUFFER, a);
  backend->memory(opened.device, &memory, &error);
  CHECK(memory.held == 0);
  CHECK(memory.peak == 600);
  CHECK(backend->allocate(Opened("").device, size_t{1} << 60, &b, &error) == MOE_OUT_OF_MEMORY);
}

TEST_CASE("cpu: a run, its profile, a cancel, and an error that surfaces once") {
  int y = 0;
  const Case graph = doubled(&y);
  Session session(moe_backend_cpu(), graph);
  session.run();
  CHECK(session.read(y).values() == std::vector<double>{2, 4, 6, 8});
  CHECK(session.profile[0] >= 0);
  const int32_t cancel = 1;
  const moe_ticket stopped = session.start({}, &cancel);
  CHECK(failure([&] { session.wait(stopped); }).code == MOE_ABORTED);
  session.wait(stopped);
  CHECK(failure([&] { session.wait(stopped + 1); }).code == MOE_INVALID_ARGUMENT);
}

TEST_CASE("cpu: a bank with missing, doubled or wrong rows is refused") {
  const moe_backend *backend = moe_backend_cpu();
  const Opened opened("");
  const moe_part part = float_part(MOE_F32);
  const moe_weight_spec spec{4, 3, 1, 0, 1, nullptr, nullptr, &part, 0, nullptr};
  moe_weight *weight = nullptr;
  moe_error error{};
  REQUIRE(backend->weight_begin(opened.device, &spec, &weight, &error) == MOE_OK);
  const float rows[12] = {};
  const moe_plain plain{rows, nullptr, nullptr, nullptr, nullptr};
  size_t bytes = 0;
  CHECK(backend->weight_put(weight, 0, 0, 0, 2, &plain, &error) == MOE_OK);
  CHECK(backend->weight_finish(weight, &bytes, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 0, 2, 2, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 1, 0, 1, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 1, 0, 0, 1, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 0, 0, 2, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 0, 2, 1, &plain, &error) == MOE_OK);
  CHECK(backend->weight_finish(weight, &bytes, &error) == MOE_OK);
  CHECK(bytes >= 48);
  backend->release(MOE_KIND_WEIGHT, weight);
  const moe_part odd = integer_part(MOE_I4, 48);
  const moe_weight_spec wrong{4, 3, 1, 0, 1, nullptr, nullptr, &odd, 0, nullptr};
  CHECK(backend->weight_begin(opened.device, &wrong, &weight, &error) == MOE_INVALID_ARGUMENT);
}
