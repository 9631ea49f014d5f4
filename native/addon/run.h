// One run of a program: moving host bindings, the backend's run, and its profile.
#pragma once
#include <vector>

#include "addon/program.h"

namespace moe::addon {

// Worker or JS thread, whichever owns the queue now: stages inputs, runs, reads outputs, waits. Throws the run's error
// once nothing touches the slot any more.
void execute_run(const ProgramResource &program, const QueueResource &queue, moe_buffer *arena, RunSlot &slot,
                 const int32_t *cancel, bool profile);

// JS thread. The array of NativeProfileNode.
Napi::Array make_profile(Napi::Env env, const ProgramResource &program, const RunSlot &slot);

class RunJob final : public PromiseJob {
 public:
  RunJob(Napi::Env env, ProgramPointer program, QueuePointer queue, CancelPointer cancel, bool profile);
  ~RunJob() override;
  void take(std::unique_ptr<RunSlot> slot) { slot_ = std::move(slot); }
  void add_target(size_t binding, const Napi::Value &array);

  bool cancelled() const override { return cancel_ && cancel_->is_set(); }
  void abort() noexcept override {
    if (cancel_) cancel_->set();
  }
  void execute() override;

 protected:
  Napi::Value result(Napi::Env env) override;

 private:
  struct Target {
    size_t binding;
    HostTarget array;
  };
  ProgramPointer program_;
  QueuePointer queue_;
  BufferPointer arena_;
  CancelPointer cancel_;
  const bool profile_;
  std::unique_ptr<RunSlot> slot_;
  std::vector<Target> targets_;
};

}  // namespace moe::addon
