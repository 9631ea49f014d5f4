#include "addon/run.h"

namespace moe::addon {

void execute_run(const ProgramResource &program, const QueueResource &queue, moe_buffer *arena, RunSlot &slot,
                 const int32_t *cancel, bool profile) {
  const moe_backend &backend = program.device->backend;
  moe_ticket last = 0;
  bool submitted = false;
  moe_error error{};
  const auto staged = [&](size_t i, int32_t role) {
    return slot.bytes[i] > 0 && program.layouts[i].role == role && slot.own[i]->host == nullptr;
  };
  const auto submit = [&](int code) {
    submitted = submitted || code == MOE_OK;
    return code == MOE_OK;
  };
  bool good = true;
  for (size_t i = 0; i < slot.bindings.size() && good; i++) {
    if (!staged(i, MOE_ROLE_INPUT)) continue;
    good = submit(backend.write(queue.handle, slot.bindings[i], 0, slot.staging[i].data(),
                                static_cast<size_t>(slot.bytes[i]), &last, &error));
  }
  const moe_run run{program.handle,    arena,  slot.bindings.data(),
                    slot.sizes.data(), cancel, profile ? slot.profile.data() : nullptr};
  good = good && submit(backend.run(queue.handle, &run, &last, &error));
  const moe_ticket ran = last;
  for (size_t i = 0; i < slot.bindings.size() && good; i++) {
    if (!staged(i, MOE_ROLE_OUTPUT)) continue;
    good = submit(backend.read(queue.handle, slot.bindings[i], 0, slot.staging[i].data(),
                               static_cast<size_t>(slot.bytes[i]), &last, &error));
  }
  // What was submitted uses the slot until it is done, also where a later step was refused.
  int32_t done = 0;
  if (good) good = backend.wait(queue.handle, ran, -1, &done, &error) == MOE_OK;
  if (submitted && (last != ran || !good)) {
    moe_error late{};
    if (backend.wait(queue.handle, last, -1, &done, &late) != MOE_OK && good) {
      error = late;
      good = false;
    }
  }
  if (!good) throw Error(error);
}

Napi::Array make_profile(Napi::Env env, const ProgramResource &program, const RunSlot &slot) {
  const Plan &plan = program.plan;
  Napi::Array list = Napi::Array::New(env, slot.profile.size());
  for (int32_t node = 0; node < plan.node_count(); node++) {
    const Cost cost = plan.cost(node, slot.sizes);
    const std::string_view operation = plan.operation_name(node);
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("operation", Napi::String::New(env, operation.data(), operation.size()));
    entry.Set("name", plan.label(node));
    entry.Set("nanoseconds", static_cast<double>(slot.profile[static_cast<size_t>(node)]));
    entry.Set("bytes", static_cast<double>(cost.bytes));
    entry.Set("operations", static_cast<double>(cost.operations));
    list.Set(static_cast<uint32_t>(node), entry);
  }
  return list;
}

RunJob::RunJob(Napi::Env env, ProgramPointer program, QueuePointer queue, CancelPointer cancel, bool profile)
    : PromiseJob(env),
      program_(std::move(program)),
      queue_(std::move(queue)),
      arena_(queue_->arena),
      cancel_(std::move(cancel)),
      profile_(profile) {}

RunJob::~RunJob() {
  if (slot_) program_->give_slot(std::move(slot_));
}

void RunJob::add_target(size_t binding, const Napi::Value &array) {
  targets_.push_back({binding, HostTarget(array, program_->plan.bindings()[binding].name,
                                          static_cast<size_t>(slot_->bytes[binding]))});
}

void RunJob::execute() {
  execute_run(*program_, *queue_, arena_->handle, *slot_, cancel_ ? &cancel_->word : queue_->worker.cancel_word(),
              profile_);
}

Napi::Value RunJob::result(Napi::Env env) {
  for (const Target &target : targets_) {
    const BufferResource &own = *slot_->own[target.binding];
    target.array.store(env, own.host ? own.host : slot_->staging[target.binding].data());
  }
  if (profile_) return make_profile(env, *program_, *slot_);
  return env.Undefined();
}

}  // namespace moe::addon
