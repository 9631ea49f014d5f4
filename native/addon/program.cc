#include "addon/program.h"

#include <array>
#include <cmath>
#include <cstring>

#include "addon/buffer.h"
#include "addon/run.h"
#include "core/types.h"
#include "moe/checked.h"
#include "moe/dtype.h"

namespace moe::addon {

namespace {

constexpr size_t kept_slots = 4;

const char *role_name(int32_t role) {
  return role == MOE_ROLE_INPUT ? "input" : role == MOE_ROLE_STATE ? "state" : "output";
}

}  // namespace

ProgramResource::ProgramResource(DevicePointer owner, moe_program *program, Plan made, GraphOwners kept)
    : device(std::move(owner)), handle(program), plan(std::move(made)), owners(std::move(kept)) {
  for (const Plan::Binding &binding : plan.bindings()) {
    int64_t elements = 1;
    int32_t symbol = -1;
    for (int32_t i = 0; i < binding.type.rank; i++) {
      elements = checked_multiply(elements, binding.type.dim[i].factor, binding.name);
      if (binding.type.dim[i].symbol >= 0) symbol = binding.type.dim[i].symbol;
    }
    const int64_t unit = checked_multiply(elements, dtype_bytes(binding.type.dtype, 1), binding.name);
    if (symbol >= 0) checked_multiply(unit, plan.max_sizes()[static_cast<size_t>(symbol)], binding.name);
    layouts.push_back({binding.role, binding.type.dtype, symbol, unit});
  }
}

std::unique_ptr<RunSlot> ProgramResource::take_slot() {
  if (!slots.empty()) {
    std::unique_ptr<RunSlot> slot = std::move(slots.back());
    slots.pop_back();
    return slot;
  }
  auto slot = std::make_unique<RunSlot>();
  slot->own.resize(layouts.size());
  slot->staging.resize(layouts.size());
  slot->bound.resize(layouts.size());
  slot->bindings.resize(layouts.size());
  slot->bytes.resize(layouts.size());
  slot->sizes.resize(plan.symbols().size());
  slot->profile.resize(static_cast<size_t>(plan.node_count()));
  slots.reserve(kept_slots);
  return slot;
}

void ProgramResource::give_slot(std::unique_ptr<RunSlot> slot) noexcept {
  for (BufferPointer &buffer : slot->bound) buffer.reset();
  if (slots.size() < kept_slots) slots.push_back(std::move(slot));
}

std::vector<napi_property_descriptor> Program::members() {
  return {getter<&Program::bindings>("bindings"),      getter<&Program::symbols>("symbols"),
          getter<&Program::arena_bytes>("arenaBytes"), promise<&Program::run>("run"),
          method<&Program::run_sync>("runSync"),       method<&Program::dispose>("dispose")};
}

Program::Program(ProgramPointer resource)
    : resource_(std::move(resource)), bound_(resource_->layouts.size()), sizes_(resource_->plan.symbols().size()) {
  resource_->device->children.insert(this);
}

void Program::drop() noexcept {
  if (!resource_) return;
  for (const std::weak_ptr<QueueResource> &joined : queues_) {
    if (const QueuePointer queue = joined.lock()) queue->leave(resource_.get());
  }
  queues_.clear();
  last_queue_ = 0;
  resource_->device->children.erase(this);
  resource_.reset();
}

const ProgramPointer &Program::alive() const {
  if (!resource_) refuse_disposed("program");
  return resource_;
}

void Program::check_binding(napi_env env, size_t index) {
  Bound &bound = bound_[index];
  const ProgramResource &program = *resource_;
  const ProgramResource::Layout &layout = program.layouts[index];
  const std::string &name = program.plan.bindings()[index].name;
  const int64_t expected = program.binding_bytes(index, sizes_.data());
  const Napi::Value value(env, bound.value);
  bound.memory = nullptr;
  bound.buffer = nullptr;
  if (is_typed_array(env, bound.value)) {
    if (layout.role == MOE_ROLE_STATE) refuse(name, "a buffer: a state outlives the run", value);
    const View memory = view_of(value, name, layout.dtype);
    if (static_cast<int64_t>(memory.bytes) != expected) {
      const Plan::Binding &binding = program.plan.bindings()[index];
      throw Error(MOE_SHAPE_MISMATCH, name,
                  print_type(binding.type, program.plan.symbols()) + " = " + std::to_string(expected) + " bytes",
                  std::to_string(memory.bytes) + " bytes");
    }
    bound.memory = memory.data;
    return;
  }
  bound.buffer = Buffer::find(env, bound.value);
  if (bound.buffer == nullptr) refuse(name, "a native buffer or a " + std::string(array_name(layout.dtype)), value);
  const BufferResource &buffer = *bound.buffer->alive(name);
  if (buffer.device != program.device)
    throw Error(MOE_INVALID_ARGUMENT, name, "a buffer of the program's device", "one of another device");
  if (buffer.bytes < expected) {
    throw Error(MOE_SHAPE_MISMATCH, name, "at least " + std::to_string(expected) + " bytes",
                "a buffer of " + std::to_string(buffer.bytes) + " bytes");
  }
}

void Program::check_aliases() const {
  for (size_t i = 0; i < bound_.size(); i++) {
    if (bound_[i].buffer == nullptr) continue;
    const BufferResource *buffer = bound_[i].buffer->alive("buffer").get();
    for (size_t j = 0; j < i; j++) {
      if (bound_[j].buffer == nullptr || bound_[j].buffer->alive("buffer").get() != buffer) continue;
      const auto &layouts = resource_->layouts;
      if (layouts[i].role == MOE_ROLE_INPUT && layouts[j].role == MOE_ROLE_INPUT) continue;
      const auto bindings = resource_->plan.bindings();
      throw Error(MOE_INVALID_ARGUMENT, bindings[i].name, "a buffer that is bound nowhere else where it is written",
                  "the buffer of " + bindings[j].name);
    }
  }
}

QueuePointer Program::prepare(const Napi::CallbackInfo &info) {
  const napi_env env = info.Env();
  const napi_value queue_value = info[0], list = info[1], sizes = info[2];
  uint32_t count = 0;
  bool is_array = false;
  if (napi_is_array(env, list, &is_array) != napi_ok || !is_array) refuse("bindings", "an array", info[1]);
  napi_check(env, napi_get_array_length(env, list, &count));
  if (count != bound_.size()) {
    throw Error(MOE_INVALID_ARGUMENT, "bindings", std::to_string(bound_.size()) + " bindings", std::to_string(count));
  }
  if (napi_is_array(env, sizes, &is_array) != napi_ok || !is_array) refuse("sizes", "an array", info[2]);
  napi_check(env, napi_get_array_length(env, sizes, &count));
  if (count != sizes_.size())
    throw Error(MOE_INVALID_ARGUMENT, "sizes", std::to_string(sizes_.size()) + " sizes", std::to_string(count));
  // Elements may be getters that call this very method, so they are kept in handles of this call until the last one is
  // read.
  constexpr size_t usual = 32;
  std::array<napi_value, usual> few{};
  std::vector<napi_value> many(bound_.size() > usual ? bound_.size() : 0);
  napi_value *values = many.empty() ? few.data() : many.data();
  std::array<napi_value, max_symbols> size_values{};
  for (size_t i = 0; i < bound_.size(); i++)
    napi_check(env, napi_get_element(env, list, static_cast<uint32_t>(i), &values[i]));
  for (size_t i = 0; i < sizes_.size(); i++)
    napi_check(env, napi_get_element(env, sizes, static_cast<uint32_t>(i), &size_values[i]));
  alive();
  const QueuePointer &queue = Queue::from(env, queue_value, "queue").alive("queue");
  if (queue->device != resource_->device)
    throw Error(MOE_INVALID_ARGUMENT, "queue", "a queue of the program's device", "one of another device");
  const std::span<const int64_t> limits = resource_->plan.max_sizes();
  for (size_t i = 0; i < sizes_.size(); i++) {
    double size = -1;
    if (napi_get_value_double(env, size_values[i], &size) != napi_ok ||
        !(size >= 0 && size <= static_cast<double>(limits[i])) || std::trunc(size) != size) {
      const std::string &symbol = resource_->plan.symbols()[i];
      refuse("sizes." + symbol, "an integer from 0 to " + std::to_string(limits[i]), Napi::Value(env, size_values[i]));
    }
    sizes_[i] = static_cast<int64_t>(size);
  }
  bool buffers = false;
  for (size_t i = 0; i < bound_.size(); i++) {
    bound_[i].value = values[i];
    check_binding(env, i);
    buffers = buffers || bound_[i].buffer != nullptr;
  }
  if (buffers) check_aliases();
  return queue;
}

std::unique_ptr<RunSlot> Program::fill_slot(napi_env env, bool profile) {
  ProgramResource &program = *resource_;
  std::unique_ptr<RunSlot> slot = program.take_slot();
  std::copy(sizes_.begin(), sizes_.end(), slot->sizes.begin());
  if (profile) std::fill(slot->profile.begin(), slot->profile.end(), 0);
  for (size_t i = 0; i < bound_.size(); i++) {
    const Bound &bound = bound_[i];
    if (bound.buffer != nullptr) {
      slot->bound[i] = bound.buffer->alive("buffer");
      slot->bindings[i] = slot->bound[i]->handle;
      slot->bytes[i] = -1;
      continue;
    }
    BufferPointer &own = slot->own[i];
    if (!own) {
      const int64_t largest = program.binding_bytes(i, program.plan.max_sizes().data());
      own = std::make_shared<BufferResource>(env, program.device, largest);
      if (own->host == nullptr) slot->staging[i] = HostBlock(static_cast<size_t>(largest));
    }
    slot->bindings[i] = own->handle;
    slot->bytes[i] = program.binding_bytes(i, sizes_.data());
    if (program.layouts[i].role == MOE_ROLE_INPUT && slot->bytes[i] > 0) {
      std::memcpy(own->host ? own->host : slot->staging[i].data(), bound.memory, static_cast<size_t>(slot->bytes[i]));
    }
  }
  return slot;
}

void Program::join(napi_env env, const QueuePointer &queue) {
  // A refused growth leaves the queue with a smaller arena, or none: only one that is large enough counts.
  const int64_t needed = resource_->plan.arena_bytes();
  if (last_queue_ == queue->id && queue->arena && queue->arena->bytes >= needed) return;
  queue->join(env, resource_.get(), needed);
  bool known = false;
  for (const std::weak_ptr<QueueResource> &joined : queues_) known = known || joined.lock() == queue;
  if (!known) {
    std::erase_if(queues_, [](const std::weak_ptr<QueueResource> &joined) { return joined.expired(); });
    queues_.push_back(queue);
  }
  last_queue_ = queue->id;
}

napi_value Program::run(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  alive();
  CancelPointer cancel = Cancel::optional(info[3], "cancel");
  const bool profile = !info[4].IsUndefined() && boolean(info[4], "profile");
  const QueuePointer queue = prepare(info);
  join(env, queue);
  auto job = std::make_unique<RunJob>(env, resource_, queue, std::move(cancel), profile);
  job->take(fill_slot(env, profile));
  for (size_t i = 0; i < bound_.size(); i++) {
    if (resource_->layouts[i].role == MOE_ROLE_OUTPUT && bound_[i].buffer == nullptr)
      job->add_target(i, Napi::Value(env, bound_[i].value));
  }
  const Napi::Promise promise = job->promise();
  queue->worker.push(env, std::move(job));
  return promise;
}

napi_value Program::run_sync(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  alive();
  const bool profile = !info[3].IsUndefined() && boolean(info[3], "profile");
  const QueuePointer queue = prepare(info);
  join(env, queue);
  queue->worker.wait_idle();
  ProgramResource &program = *resource_;
  std::unique_ptr<RunSlot> slot = fill_slot(env, profile);
  execute_run(program, *queue, queue->arena->handle, *slot, nullptr, profile);
  for (size_t i = 0; i < bound_.size(); i++) {
    if (bound_[i].memory == nullptr || program.layouts[i].role != MOE_ROLE_OUTPUT || slot->bytes[i] <= 0) continue;
    std::memcpy(bound_[i].memory, slot->own[i]->host ? slot->own[i]->host : slot->staging[i].data(),
                static_cast<size_t>(slot->bytes[i]));
  }
  const napi_value result =
      profile ? static_cast<napi_value>(make_profile(env, program, *slot)) : static_cast<napi_value>(env.Undefined());
  program.give_slot(std::move(slot));
  return result;
}

napi_value Program::bindings(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const Plan &plan = alive()->plan;
  Napi::Array list = Napi::Array::New(env);
  for (const Plan::Binding &binding : plan.bindings()) {
    const std::string_view dtype = dtypes[static_cast<size_t>(binding.type.dtype)].name;
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", binding.name);
    entry.Set("role", role_name(binding.role));
    entry.Set("dtype", Napi::String::New(env, dtype.data(), dtype.size()));
    entry.Set("shape", make_shape(env, binding.type, plan.symbols()));
    list.Set(list.Length(), entry);
  }
  return list;
}

napi_value Program::symbols(const Napi::CallbackInfo &info) {
  Napi::Array list = Napi::Array::New(info.Env());
  for (const std::string &symbol : alive()->plan.symbols()) list.Set(list.Length(), symbol);
  return list;
}

napi_value Program::arena_bytes(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(alive()->plan.arena_bytes()));
}

napi_value Program::dispose(const Napi::CallbackInfo &info) {
  drop();
  return info.Env().Undefined();
}

}  // namespace moe::addon
