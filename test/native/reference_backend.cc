// The reference through the C ABI: options, memory, weights, tickets, foreign mode, refusals.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "backend_harness.h"

extern "C" const moe_backend *moe_backend_reference(void);

namespace {

using namespace moe::test;

const moe_backend *const backend = moe_backend_reference();

moe_error open_with(const char *options) {
  moe_device *device = nullptr;
  moe_error error{};
  if (backend->open(0, options, &device, &error) == MOE_OK) backend->release(MOE_KIND_DEVICE, device);
  return error;
}

// y = 2·x over one row.
struct Doubling {
  Case graph;
  int x = graph.input(f32({1, 2}, {1, 2})), inner = graph.inner(MOE_F32, {1, 2}), y = graph.output(MOE_F32, {1, 2}, -1);
  Doubling() {
    graph.node(MOE_MAP, moe_map{MOE_FUNCTION_SCALE, 2, 0}, {x}, {inner});
    graph.node(MOE_MAP, moe_map{MOE_FUNCTION_SCALE, 1, 0}, {inner}, {y});
  }
};

}  // namespace

TEST_CASE("reference backend: options, describe, limits") {
  CHECK(open_with("").code == MOE_OK);
  CHECK(open_with("foreign=1\nmemoryLimit=100\n").code == MOE_OK);
  for (const char *wrong : {"threads=2", "isa=avx2", "foreign=2", "memoryLimit=", "memoryLimit=-1", "memoryLimit=1e9",
                            "memoryLimit=99999999999999999999", "nonsense"}) {
    const moe_error error = open_with(wrong);
    CHECK(error.code == MOE_INVALID_ARGUMENT);
    CHECK(std::string(wrong).starts_with(error.argument));
  }
  CHECK(std::string(open_with("threads=2").expected) == "one of foreign, memoryLimit");
  Case empty;
  Session session(backend, empty, "foreign=1");
  char json[200];
  moe_error error{};
  CHECK(backend->describe(session.device, json, sizeof json, &error) == MOE_OK);
  CHECK(std::string(json).find(R"("name":"reference","foreign":true)") != std::string::npos);
  CHECK(backend->describe(session.device, json, 5, &error) == MOE_INVALID_ARGUMENT);
  moe_limits limits{1, 1, 1};
  CHECK(backend->limits(session.device, &limits, &error) == MOE_OK);
  CHECK(limits.read_bytes_per_second == 0);
}

TEST_CASE("reference backend: memory is counted and limited") {
  Case empty;
  Session session(backend, empty, "memoryLimit=4096");
  moe_error error{};
  moe_memory before{}, after{};
  backend->memory(session.device, &before, &error);
  moe_buffer *buffer = nullptr;
  CHECK(backend->allocate(session.device, 1000, &buffer, &error) == MOE_OK);
  backend->memory(session.device, &after, &error);
  CHECK(after.held - before.held == 1024);
  CHECK(reinterpret_cast<uintptr_t>(backend->host_address(buffer)) % 64 == 0);
  moe_buffer *more = nullptr;
  CHECK(backend->allocate(session.device, 4000, &more, &error) == MOE_OUT_OF_MEMORY);
  CHECK(std::string(error.expected).find("4096") != std::string::npos);
  CHECK(std::string(error.received).find("4032") != std::string::npos);
  CHECK(backend->allocate(session.device, ~size_t{0}, &more, &error) == MOE_INVALID_ARGUMENT);
  backend->release(MOE_KIND_BUFFER, buffer);
  backend->memory(session.device, &after, &error);
  CHECK(after.held == before.held);
  CHECK(after.peak == before.held + 1024);
  CHECK(after.limit == 4096);
  Case large;
  large.weight(random_bank({100, 100, 1, false, float_part(MOE_F32)}, 1));
  CHECK(failure([&] { Session(backend, large, "memoryLimit=39999"); }).code == MOE_OUT_OF_MEMORY);
}

TEST_CASE("reference backend: weights are checked, and hold the plain form") {
  const auto begin = [](BankForm form, std::vector<moe_part> parts = {}) {
    return failure([&] {
      Case empty;
      Session session(backend, empty);
      if (parts.empty()) parts = parts_of(form);
      const moe_weight_spec spec = weight_spec(form, parts);
      moe_weight *weight = nullptr;
      moe::check([&](moe_error *error) { return backend->weight_begin(session.device, &spec, &weight, error); });
      backend->release(MOE_KIND_WEIGHT, weight);
    });
  };
  CHECK(begin({4, 4, 1, false, float_part(MOE_BF16), true}).code == MOE_OK);
  CHECK(std::string(begin({0, 4, 1, false, float_part(MOE_F32)}).argument) == "in");
  CHECK(std::string(begin({4, 3, 1, true, float_part(MOE_F32)}).argument) == "out");
  CHECK(std::string(begin({4, 4, 0, false, float_part(MOE_F32)}).argument) == "slots");
  CHECK(std::string(begin({4, 4, 1, false, float_part(MOE_I32)}).argument) == "store");
  CHECK(std::string(begin({4, 4, 1, false, integer_part(MOE_I4, 48)}).argument) == "group");
  CHECK(std::string(begin({4, 4, 1, false, integer_part(MOE_I4, 32, MOE_BF16)}).argument) == "scale");
  CHECK(std::string(
            begin({4, 4, 1, false, {MOE_PART_BASE, MOE_I8, MOE_F16, MOE_F32, 32, -1, 0, 0, 0, nullptr}}).argument) ==
        "offset");
  CHECK(std::string(begin({4, 4, 1, false, {MOE_PART_BASE, MOE_F16, MOE_F16, -1, 0, -1, 0, 0, 0, nullptr}}).argument) ==
        "scale");
  CHECK(std::string(begin({4, 4, 1, false, float_part(MOE_F32), false, {5}}).argument) == "inOf");
  CHECK(std::string(begin({4, 4, 1, true, float_part(MOE_F32), false, {}, {3}}).argument) == "outOf");
  CHECK(begin({4, 4, 1, false, float_part(MOE_F32)}, {moe::bias_part()}).code == MOE_INVALID_ARGUMENT);
  CHECK(begin({int64_t{1} << 40, int64_t{1} << 40, 1, false, float_part(MOE_F32)}).code == MOE_INVALID_ARGUMENT);

  Case graph;
  graph.weight(random_bank({33, 4, 2, false, integer_part(MOE_I4, 32, MOE_F16, true), true}, 1));
  Session session(backend, graph);
  CHECK(session.weight_bytes[0] == 2 * 4 * (17 + 2 * 2 + 2 * 2 + 4));

  const BankForm form{2, 3, 2, false, float_part(MOE_F32)};
  const auto parts = parts_of(form);
  const moe_weight_spec spec = weight_spec(form, parts);
  moe_weight *weight = nullptr;
  moe_error error{};
  CHECK(backend->weight_begin(session.device, &spec, &weight, &error) == MOE_OK);
  const float rows[6] = {1, 2, 3, 4, 5, 6};
  const moe_plain plain{rows, nullptr, nullptr, nullptr, nullptr}, none{};
  CHECK(backend->weight_put(weight, 0, 0, 1, 2, &plain, &error) == MOE_OK);
  CHECK(backend->weight_put(weight, 0, 0, 1, 1, &plain, &error) == MOE_INVALID_ARGUMENT);  // twice
  CHECK(backend->weight_put(weight, 1, 0, 0, 1, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 2, 0, 1, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 1, 2, 2, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 1, -1, 1, &plain, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->weight_put(weight, 0, 1, 0, 1, &none, &error) == MOE_INVALID_ARGUMENT);
  size_t bytes = 0;
  CHECK(backend->weight_finish(weight, &bytes, &error) == MOE_INVALID_ARGUMENT);
  CHECK(std::string(error.received) == "4 rows missing");
  CHECK(backend->weight_put(weight, 0, 0, 0, 1, &plain, &error) == MOE_OK);
  CHECK(backend->weight_put(weight, 0, 1, 0, 3, &plain, &error) == MOE_OK);
  CHECK(backend->weight_finish(weight, &bytes, &error) == MOE_OK);
  CHECK(bytes == 48);
  backend->release(MOE_KIND_WEIGHT, weight);
}

TEST_CASE("reference backend: foreign mode runs at the wait, has no host address, and poisons") {
  const Doubling doubling;
  Session session(backend, doubling.graph, "foreign=1");
  CHECK(backend->host_address(session.arena) == nullptr);
  float inputs[2] = {5, 6}, outputs[2] = {0, 0};
  moe_ticket written = 0, run = 0, read = 0;
  moe_error error{};
  CHECK(backend->write(session.queue, session.buffer_of(doubling.x), 0, inputs, sizeof inputs, &written, &error) ==
        MOE_OK);
  run = session.start();
  CHECK(backend->read(session.queue, session.buffer_of(doubling.y), 0, outputs, sizeof outputs, &read, &error) ==
        MOE_OK);
  inputs[0] = 7;  // seen, since nothing has run: who frees early is caught
  CHECK(outputs[0] == 0);
  session.wait(written);
  CHECK(outputs[0] == 0);
  session.wait(read);
  CHECK(outputs[0] == 14);
  CHECK(outputs[1] == 12);
  CHECK(session.profile[0] >= 0);
  int32_t done = 0;
  CHECK(backend->wait(session.queue, read + 1, -1, &done, &error) == MOE_INVALID_ARGUMENT);
  CHECK(backend->wait(session.queue, run, 0, &done, &error) == MOE_OK);

  moe_buffer *fresh = session.buffer(8);
  CHECK(backend->read(session.queue, fresh, 0, outputs, sizeof outputs, &read, &error) == MOE_OK);
  session.wait(read);
  CHECK(std::isnan(outputs[0]));
  CHECK(backend->read(session.queue, fresh, 1, outputs, sizeof outputs, &read, &error) == MOE_INVALID_ARGUMENT);
}

TEST_CASE("reference backend: objects released while in flight live until the ticket is done") {
  const Doubling doubling;
  Session session(backend, doubling.graph, "foreign=1");
  moe_error error{};
  moe_buffer *buffer = nullptr;
  CHECK(backend->allocate(session.device, 8, &buffer, &error) == MOE_OK);
  const float inputs[2] = {1, 2};
  float outputs[2] = {};
  moe_ticket ticket = 0;
  CHECK(backend->write(session.queue, buffer, 0, inputs, 8, &ticket, &error) == MOE_OK);
  CHECK(backend->read(session.queue, buffer, 0, outputs, 8, &ticket, &error) == MOE_OK);
  backend->release(MOE_KIND_BUFFER, buffer);
  session.wait(ticket);
  CHECK(outputs[1] == 2);
}

TEST_CASE("reference backend: a cancelled run ends with ABORTED, told once") {
  for (const char *options : {"", "foreign=1"}) {
    const Doubling doubling;
    Session session(backend, doubling.graph, options);
    const int32_t cancel = 1;
    const moe_ticket ticket = session.start({}, &cancel);
    CHECK(failure([&] { session.wait(ticket); }).code == MOE_ABORTED);
    CHECK(failure([&] { session.wait(ticket); }).code == MOE_OK);
    session.run();
    CHECK(session.read(doubling.y).values() == std::vector<double>{2, 4});
  }
}

TEST_CASE("reference backend: graphs and runs that do not fit are refused") {
  const auto compile = [](int32_t op, size_t skip) {
    return failure([&] {
      Case graph;
      const int x = graph.input(f32({1, 1}, {1})), y = graph.output(MOE_F32, {1, 1});
      graph.node(op, moe_map{MOE_FUNCTION_RELU, 0, 0}, {x}, {y});
      graph.nodes[0].attributes.resize(graph.nodes[0].attributes.size() - skip);
      Session(backend, graph);
    });
  };
  CHECK(compile(MOE_MAP, 0).code == MOE_OK);
  CHECK(compile(MOE_MAP, 4).code == MOE_INVALID_ARGUMENT);
  CHECK(compile(MOE_OP_COUNT, 0).code == MOE_UNSUPPORTED);
  CHECK(compile(-1, 0).code == MOE_UNSUPPORTED);

  Case graph;
  const int32_t t = graph.symbol_of(4);
  const int x = graph.input(filled(MOE_F32, {4, 1}, 1), {symbol(t), 1}), y = graph.output(MOE_F32, {symbol(t), 1}, 9);
  graph.node(MOE_MAP, moe_map{MOE_FUNCTION_SCALE, 2, 0}, {x}, {y});
  Session session(backend, graph, "foreign=1");
  CHECK(failure([&] { session.run({5}); }).code == MOE_INVALID_ARGUMENT);
  CHECK(failure([&] { session.run({-1}); }).code == MOE_INVALID_ARGUMENT);
  session.run({2});
  session.run({0});
  const int64_t size = 4;
  moe_buffer *small = session.buffer(8), *bindings[2] = {session.buffer_of(x), small};
  const moe_run run{session.program, session.arena, bindings, &size, nullptr, nullptr};
  moe_ticket ticket = 0;
  moe_error error{};
  CHECK(backend->run(session.queue, &run, &ticket, &error) == MOE_INVALID_ARGUMENT);
  CHECK(std::string(error.received) == "8 bytes");
  session.run({4});
  CHECK(session.read(y).values() == std::vector<double>{2, 2, 2, 2});
}
