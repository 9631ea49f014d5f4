// Tickets: jobs in order, at once, or in foreign mode at the wait that asks for them; errors are kept until a wait
// asks.
#include <chrono>
#include <cstring>

#include "reference.h"

namespace moe::reference {

void execute(const Run &run, bool foreign) {
  const moe_program &program = *run.program;
  std::vector<moe_buffer *> bindings;
  for (const auto &binding : run.bindings) bindings.push_back(binding.get());
  if (foreign) std::memset(run.arena->data.get(), poison, run.arena->bytes);
  for (size_t i = 0; i < program.nodes.size(); ++i) {
    if (run.cancel != nullptr && __atomic_load_n(run.cancel, __ATOMIC_RELAXED) != 0)
      throw Error(MOE_ABORTED, "", "no cancel", "a cancel before node " + std::to_string(i));
    const auto begin = std::chrono::steady_clock::now();
    const Node node = program.bind(i, run.sizes.data(), run.arena.get(), bindings.data());
    if (foreign) {  // nothing may come through the arena from the node that had the place before
      for (const Tensor &output : node.output) {
        if (output && output.role == MOE_ROLE_INNER)
          std::memset(output.data, poison, static_cast<size_t>(output.bytes()));
      }
      if (program.scratch[i] > 0) std::memset(node.scratch, poison, static_cast<size_t>(program.scratch[i]));
    }
    operation(node.op).run(node);
    if (run.profile != nullptr) {
      const auto spent = std::chrono::steady_clock::now() - begin;
      run.profile[i] = std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
    }
  }
}

}  // namespace moe::reference

void moe_queue::perform(const moe::reference::Job &job) {
  const moe_ticket ticket = ++done;
  moe_error error{};
  const int code = moe::guarded(&error, [&] {
    if (const auto *run = std::get_if<moe::reference::Run>(&job)) return execute(*run, device->foreign);
    const auto &transfer = std::get<moe::reference::Transfer>(job);
    if (transfer.bytes == 0) return;
    std::byte *place = transfer.buffer->data.get() + transfer.offset;
    if (transfer.from != nullptr) std::memcpy(place, transfer.from, transfer.bytes);
    if (transfer.to != nullptr) std::memcpy(transfer.to, place, transfer.bytes);
  });
  if (code != MOE_OK) failed[ticket] = error;
}

moe_ticket moe_queue::give(moe::reference::Job job) {
  if (device->foreign) {
    pending.push_back(std::move(job));
  } else {
    perform(job);
  }
  return ++given;
}

// The oldest failure up to `ticket` is thrown, once: a caller that waits only for its last ticket sees it.
void moe_queue::wait(moe_ticket ticket) {
  moe::reference::expect(ticket <= given, "ticket", "a ticket of this queue, at most " + std::to_string(given),
                         static_cast<int64_t>(ticket));
  while (done < ticket) {
    const moe::reference::Job job = std::move(pending.front());
    pending.pop_front();
    perform(job);
  }
  const auto first = failed.begin();
  if (first == failed.end() || first->first > ticket) return;
  const moe::Error error(first->second);
  failed.erase(first);
  throw error;
}
