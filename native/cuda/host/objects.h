// What the C ABI hands out, shared by whoever made it and by the jobs in flight.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "device.h"
#include "linear/bank.h"
#include "node.h"

namespace moe::cuda {

// Objects live until their maker has called `release` and no job holds them.
template <typename Object>
struct Handle : std::enable_shared_from_this<Object> {
  std::shared_ptr<Object> maker;
};

struct DeviceHandle : Handle<DeviceHandle> {
  std::shared_ptr<Device> device;
};
struct Buffer : Handle<Buffer> {
  Memory memory;
};
struct Weight : Handle<Weight> {
  explicit Weight(Bank made) : bank(std::move(made)) {}
  Bank bank;
};

class Event {
 public:
  Event();
  Event(Event &&other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event &operator=(Event &&other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// A ticket that is not known to be done, and what it needs alive.
struct Job {
  moe_ticket ticket = 0;
  Event done;
  std::vector<std::shared_ptr<void>> holds;
  const int32_t *cancel = nullptr;
  int64_t *profile = nullptr;
  std::vector<Event> marks;  // before the first node and behind each, where there is a profile
};

struct Queue : Handle<Queue> {
  Queue(std::shared_ptr<Device> owner, int32_t priority);
  ~Queue();

  // Ends what was enqueued with a ticket; failures of `enqueue` belong to it.
  template <typename Enqueue>
  moe_ticket give(Job job, const Enqueue &enqueue);
  // True once `ticket` and all before it are done.
  bool wait(moe_ticket ticket, int64_t nanoseconds);

  std::shared_ptr<Device> device;
  cudaStream_t stream = nullptr;

 private:
  void finish(Job &job);

  moe_ticket given_ = 0;
  std::deque<Job> flying_;
  std::vector<Event> spare_;
  std::map<moe_ticket, moe_error> failed_;
};

// A frame in device memory, and the captured graph that reads it: one a program and queue.
class Instance {
 public:
  Instance(const std::shared_ptr<Device> &device, size_t bindings);
  Instance(Instance &&) = delete;
  ~Instance();
  Frame *frame() const { return reinterpret_cast<Frame *>(frame_.data()); }
  cudaGraphExec_t graph = nullptr;

 private:
  Memory frame_;
};

// A compiled graph: operands resolved to places once.
class Program : public Handle<Program> {
 public:
  Program(std::shared_ptr<Device> device, const moe_graph &graph);

  const std::vector<int64_t> &scratch() const { return scratch_; }
  // Enqueues; marks, where given, are recorded before the first node and behind each.
  void run(Queue &queue, const moe_run &run, std::vector<Event> &marks);
  // Throws where sizes or buffers do not fit.
  void check_run(const moe_run &run) const;
  size_t node_count() const { return nodes_.size(); }
  int32_t binding_count() const { return binding_count_; }

 private:
  Operand operand(const moe_graph &graph, int32_t index);
  // Asks the node for its scratch, which lies in the arena from `offset` on (−1: not known yet).
  void take_scratch(Node &node, int64_t offset);
  void launch(const Node &node, Launcher &launcher) const;
  Instance &instance(const Queue &queue);

  std::shared_ptr<Device> device_;
  std::vector<Node> nodes_;  // never moved once fused: they know one another
  std::vector<int64_t> scratch_, max_sizes_, binding_factor_, binding_bytes_;
  std::vector<int32_t> binding_symbol_;
  std::vector<std::shared_ptr<void>> holds_;  // weights and constants
  int32_t binding_count_;
  int64_t arena_bytes_ = 0;
  std::mutex mutex_;
  std::map<const Queue *, std::unique_ptr<Instance>> instances_;
};

template <typename Enqueue>
moe_ticket Queue::give(Job job, const Enqueue &enqueue) {
  device->use();
  job.ticket = ++given_;
  if (!spare_.empty()) {
    job.done = std::move(spare_.back());
    spare_.pop_back();
  } else {
    job.done = Event();
  }
  moe_error error{};
  const int code = guarded(&error, [&] { enqueue(job); });
  if (code != MOE_OK) failed_.emplace(job.ticket, error);
  cudaEventRecord(job.done.get(), stream);
  const moe_ticket ticket = job.ticket;
  flying_.push_back(std::move(job));
  return ticket;
}

}  // namespace moe::cuda
