// Several threads of the caller at once, each with a device and a queue of its own, over the one pool: the results are
// those of one thread alone, bit for bit.
#include <atomic>
#include <thread>

#include "cpu_operations.h"

namespace moe::test {
namespace {

constexpr int64_t tokens = 24, width = 96, heads = 4, head = width / heads, experts = 8, top_k = 2, page = 16,
                  sequences = 2;

// Attention over two sequences, the router, a grouped bank, and the sum of its rows; large enough to be cut up.
Case layer() {
  Case graph;
  const int32_t count = graph.symbol_of(tokens);
  const Shape rows{symbol(count), width}, choices{symbol(count), top_k}, routed{symbol(count, top_k)};
  const auto dense = [&](int x, int64_t out, const moe_part &part, uint32_t seed) {
    const int weight = graph.weight(random_bank({width, out, 1, false, part}, seed));
    const int y = graph.inner(MOE_F32, {symbol(count), out});
    graph.node(MOE_LINEAR, moe_linear{MOE_NONE, MOE_AUTO, MOE_F32}, {x, weight}, {y});
    return y;
  };
  const int x = graph.input(random_array(MOE_F32, {tokens, width}, 1), rows);
  const int q = dense(x, width, float_part(MOE_BF16), 2), k = dense(x, width, float_part(MOE_F32), 3);
  const int v = dense(x, width, integer_part(MOE_I8, 0, MOE_F32), 4);
  Array positions = filled(MOE_I32, {tokens}), sequence = positions;
  for (int64_t t = 0; t < tokens; ++t) {
    positions.set(t, static_cast<double>(t % (tokens / sequences)));
    sequence.set(t, static_cast<double>(t / (tokens / sequences)));
  }
  const int position = graph.input(positions, {symbol(count)}), owner = graph.input(sequence, {symbol(count)});
  const int lengths = graph.input(filled(MOE_I32, {sequences}, tokens / sequences)),
            pages = graph.input(i32({2}, {1, 0}));
  const int keys = graph.state(filled(MOE_F32, {2, page, width})),
            values = graph.state(filled(MOE_F32, {2, page, width}));
  const int attended = graph.inner(MOE_F32, rows);
  graph.node(MOE_ATTENTION, moe_attention{heads, heads, 1, 0, 1 / std::sqrt(static_cast<float>(head)), 0},
             {q, k, v, position, owner, lengths, pages, keys, values}, {attended});

  const int logits = dense(attended, experts, float_part(MOE_F32), 5);
  const int ids = graph.output(MOE_I32, choices), gates = graph.inner(MOE_F32, choices),
            row_of = graph.inner(MOE_I32, choices);
  const int token_of = graph.inner(MOE_I32, routed), gate_of = graph.inner(MOE_F32, routed);
  const int offsets = graph.inner(MOE_I32, {experts + 1});
  graph.node(MOE_ROUTE, moe_route{MOE_SOFTMAX, top_k, 1, 0, experts, experts, 1, 1, 1.0f}, {logits},
             {ids, gates, row_of, token_of, gate_of, offsets});
  const int bank =
      graph.weight(random_bank({width, width, experts, false, integer_part(MOE_I4, 32, MOE_F16, true)}, 6));
  const int expert_rows = graph.inner(MOE_F32, {symbol(count, top_k), width});
  graph.node(MOE_LINEAR, moe_linear{MOE_SILU, MOE_AUTO, MOE_F32}, {attended, bank, token_of, offsets}, {expert_rows});
  graph.node(MOE_COMBINE, moe_combine{MOE_F32}, {expert_rows, row_of, gate_of, -1, -1, x},
             {graph.output(MOE_F32, rows)});
  return graph;
}

TEST_CASE("cpu: several threads, each with its own device and queue, run a layer at once and agree to the bit") {
  const Case graph = layer();
  for (const std::string &isa : operation_sets()) {
    CAPTURE(isa);
    const std::vector<Array> alone = run(moe_backend_cpu(), graph, ("isa=" + isa + "\nthreads=1").c_str());
    std::atomic<int> wrong{0}, runs{0};
    std::vector<std::thread> callers;
    for (int threads = 1; threads <= 4; ++threads) {
      callers.emplace_back([&, threads] {
        Session session(moe_backend_cpu(), graph, ("isa=" + isa + "\nthreads=" + std::to_string(threads)).c_str());
        for (int round = 0; round < 4; ++round) {
          session.run();
          for (size_t i = 0; i < graph.values.size(); ++i)
            if (kept(graph.values[i]) && session.read(static_cast<int>(i)).bytes != alone[i].bytes) ++wrong;
          ++runs;
        }
      });
    }
    for (std::thread &caller : callers) caller.join();
    CHECK(wrong.load() == 0);
    CHECK(runs.load() == 16);
  }
}

TEST_CASE("cpu: a cancel from another thread ends a run") {
  const Case graph = layer();
  Session session(moe_backend_cpu(), graph, "threads=3");
  int32_t cancel = 0;
  std::thread stopper([&] { __atomic_store_n(&cancel, 1, __ATOMIC_RELAXED); });
  moe_error error{};
  while (error.code == MOE_OK) error = failure([&] { session.run({}, &cancel); });
  stopper.join();
  CHECK(error.code == MOE_ABORTED);
  session.run();
}

TEST_CASE("cpu: two queues of one device run on two threads; memory is counted without loss") {
  const moe_backend *backend = moe_backend_cpu();
  moe_device *device = nullptr;
  moe_error error{};
  REQUIRE(backend->open(0, "threads=2", &device, &error) == MOE_OK);
  std::atomic<int> failed{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 2; ++c) {
    callers.emplace_back([&] {
      const auto good = [&](auto &&call) {
        moe_error late{};
        if (call(&late) != MOE_OK) ++failed;
      };
      moe_queue *queue = nullptr;
      good([&](moe_error *late) { return backend->queue(device, 0, &queue, late); });
      for (int round = 0; round < 100; ++round) {
        moe_buffer *buffer = nullptr;
        moe_ticket ticket = 0;
        int32_t done = 0;
        const float from[4] = {1, 2, 3, 4};
        good([&](moe_error *late) { return backend->allocate(device, 100'000, &buffer, late); });
        good([&](moe_error *late) { return backend->write(queue, buffer, 0, from, sizeof from, &ticket, late); });
        good([&](moe_error *late) { return backend->wait(queue, ticket, -1, &done, late); });
        backend->release(MOE_KIND_BUFFER, buffer);
      }
      backend->release(MOE_KIND_QUEUE, queue);
    });
  }
  for (std::thread &caller : callers) caller.join();
  moe_memory memory{};
  CHECK(backend->memory(device, &memory, &error) == MOE_OK);
  CHECK(memory.held == 0);
  CHECK(failed.load() == 0);
  backend->release(MOE_KIND_DEVICE, device);
}

}  // namespace
}  // namespace moe::test
