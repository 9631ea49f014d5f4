// Tickets over a stream: each has an event; what a job needs stays alive until its event is done.
#include <chrono>
#include <string>
#include <thread>

#include "check.h"
#include "moe/error.h"
#include "objects.h"

namespace moe::cuda {

Event::Event() { MOE_CUDA(cudaEventCreateWithFlags(&event_, 0)); }
Event::~Event() {
  if (event_) cudaEventDestroy(event_);
}

Queue::Queue(std::shared_ptr<Device> owner, int32_t priority) : device(std::move(owner)) {
  device->use();
  int least = 0, greatest = 0;
  MOE_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  const int chosen = priority > 0 ? greatest : least;
  MOE_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, chosen));
}

Queue::~Queue() {
  cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
}

void Queue::finish(Job &job) {
  if (job.profile) {
    for (size_t i = 0; i + 1 < job.marks.size(); ++i) {
      float milliseconds = 0;
      MOE_CUDA(cudaEventElapsedTime(&milliseconds, job.marks[i].get(), job.marks[i + 1].get()));
      job.profile[i] = static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6);
    }
  }
  const bool cancelled = job.cancel && __atomic_load_n(job.cancel, __ATOMIC_RELAXED) != 0;
  if (cancelled && !failed_.contains(job.ticket))
    failed_.emplace(job.ticket, Error(MOE_ABORTED, "", "no cancel", "a cancel during the run").get());
}

// The oldest failure up to `ticket` surfaces, once: a caller that waits only for its last ticket sees it.
bool Queue::wait(moe_ticket ticket, int64_t nanoseconds) {
  if (ticket > given_) throw Error(MOE_INVALID_ARGUMENT, "ticket", "a ticket of this queue", std::to_string(ticket));
  device->use();
  const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(nanoseconds);
  while (!flying_.empty() && flying_.front().ticket <= ticket) {
    Job &job = flying_.front();
    cudaError_t state = nanoseconds < 0 ? cudaEventSynchronize(job.done.get()) : cudaEventQuery(job.done.get());
    if (state == cudaErrorNotReady) {
      if (std::chrono::steady_clock::now() >= until) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      continue;
    }
    moe_error error{};
    const int code = guarded(&error, [&] {
      check_cuda(state, "the work of a ticket");
      finish(job);
    });
    if (code != MOE_OK) failed_.emplace(job.ticket, error);
    spare_.push_back(std::move(job.done));
    flying_.pop_front();
  }
  const auto first = failed_.begin();
  if (first == failed_.end() || first->first > ticket) return true;
  const Error failure(first->second);
  failed_.erase(first);
  throw failure;
}

}  // namespace moe::cuda
