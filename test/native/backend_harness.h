// Builds a graph once and runs it against any backend, so that a kernel's test and its comparison share one
// description.
//
//   Case graph;
//   const int x = graph.input(f32({2, 3}, {1, 2, 3, 4, 5, 6}));
//   const int y = graph.output(MOE_F32, {2, 3});
//   graph.node(MOE_MAP, moe_map{MOE_FUNCTION_SCALE, 2, 0}, {x}, {y});
//   CHECK(run(moe_backend_reference(), graph)[y].at(0) == 2);            // one run, every output and state read back
//   Session session(moe_backend_cpu(), graph, "threads=2");              // or many runs: write, run, read
//
// Every buffer and arena region has its own place, so nothing is reused. Failures throw moe::Error.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "backend_data.h"
#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"
#include "moe/operations.h"

namespace moe::test {

// ---- the graph
// ---------------------------------------------------------------------------------------------------------

class Case {
 public:
  struct Value {
    int32_t role, dtype;
    Shape shape;
    Array data;  // first contents of an input, state, constant or output
    int bank = -1, plain_bank = -1;
  };
  struct Node {
    int32_t op;
    std::vector<int> inputs, outputs;
    std::vector<std::byte> attributes;
  };

  // The largest size of the next symbol; its index. A run uses the largest unless `Session::run` is given others.
  int32_t symbol_of(int64_t largest) {
    return max_sizes.push_back(largest), static_cast<int32_t>(max_sizes.size()) - 1;
  }

  int input(Array data) { return bound(MOE_ROLE_INPUT, std::move(data)); }
  int input(Array data, Shape shape) { return bound(MOE_ROLE_INPUT, std::move(data), std::move(shape)); }
  int state(Array data) { return bound(MOE_ROLE_STATE, std::move(data)); }
  int state(Array data, Shape shape) { return bound(MOE_ROLE_STATE, std::move(data), std::move(shape)); }
  int constant(Array data) { return bound(MOE_ROLE_CONSTANT, std::move(data)); }
  int inner(int32_t dtype, Shape shape) { return add({MOE_ROLE_INNER, dtype, std::move(shape), {}}); }
  // `before` is what the output holds before the run, to see what a kernel leaves as it is.
  int output(int32_t dtype, Shape shape, double before = 0) {
    Shape most = shape;
    for (Dim &dim : most) dim = Dim(elements({dim}, max_sizes));
    return add({MOE_ROLE_OUTPUT, dtype, std::move(shape), filled(dtype, std::move(most), before)});
  }
  int weight(Bank bank) {
    banks.push_back(std::move(bank));
    return add({MOE_ROLE_WEIGHT,
                banks.back().form.base.store,
                {banks.back().form.out, banks.back().form.in},
                {},
                static_cast<int>(banks.size()) - 1});
  }
  int weight(PlainBank bank) {
    plain_banks.push_back(std::move(bank));
    const PlainBank &kept = plain_banks.back();
    Value value{MOE_ROLE_WEIGHT, kept.parts.at(0).store, {kept.spec.out, kept.spec.in}, {}};
    value.plain_bank = static_cast<int>(plain_banks.size()) - 1;
    return add(std::move(value));
  }
  // Inputs and outputs in the order of operations.h, -1 where absent; trailing ones may be left out.
  template <typename Attributes>
  void node(int32_t op, const Attributes &attributes, std::vector<int> inputs, std::vector<int> outputs) {
    Node made{op, std::move(inputs), std::move(outputs), std::vector<std::byte>(sizeof(Attributes))};
    std::memcpy(made.attributes.data(), &attributes, sizeof(Attributes));
    nodes.push_back(std::move(made));
  }

  std::vector<Value> values;
  std::vector<Node> nodes;
  std::deque<Bank> banks;
  std::deque<PlainBank> plain_banks;
  std::vector<int64_t> max_sizes;

 private:
  int add(Value value) { return values.push_back(std::move(value)), static_cast<int>(values.size()) - 1; }
  int bound(int32_t role, Array data) {
    Shape shape = data.shape;
    return bound(role, std::move(data), std::move(shape));
  }
  int bound(int32_t role, Array data, Shape shape) {
    const int32_t dtype = data.dtype;
    return add({role, dtype, std::move(shape), std::move(data)});
  }
};

// ---- running it
// --------------------------------------------------------------------------------------------------------

class Session {
 public:
  // Owns one ABI object.
  class Handle {
   public:
    Handle(const moe_backend *backend, int32_t kind, void *object) : backend_(backend), kind_(kind), object_(object) {}
    Handle(Handle &&other) noexcept
        : backend_(other.backend_), kind_(other.kind_), object_(std::exchange(other.object_, nullptr)) {}
    Handle &operator=(Handle &&) = delete;
    ~Handle() {
      if (object_ != nullptr) backend_->release(kind_, object_);
    }
    void *get() const { return object_; }

   private:
    const moe_backend *backend_;
    int32_t kind_;
    void *object_;
  };

  Session(const moe_backend *backend, const Case &graph, const char *options = "") : backend_(backend), case_(graph) {
    check([&](moe_error *error) { return backend->open(0, options, &device, error); });
    own(MOE_KIND_DEVICE, device);
    check([&](moe_error *error) { return backend->queue(device, 0, &queue, error); });
    own(MOE_KIND_QUEUE, queue);
    place_values();
    place_nodes();
    std::vector<int64_t> scratch(nodes_.size());
    const moe_graph described = describe();
    check([&](moe_error *error) { return backend->scratch(device, &described, scratch.data(), error); });
    for (size_t i = 0; i < nodes_.size(); ++i) nodes_[i].scratch_offset = reserve(scratch[i]);
    check([&](moe_error *error) { return backend->compile(device, &described, &program, error); });
    own(MOE_KIND_PROGRAM, program);
    arena = buffer(arena_bytes_);
    profile.assign(std::max<size_t>(nodes_.size(), 1), -1);
  }

  void write(int value, const Array &data) {
    moe_ticket ticket = 0;
    check([&](moe_error *error) {
      return backend_->write(queue, buffers_.at(static_cast<size_t>(value)), 0, data.bytes.data(), data.bytes.size(),
                             &ticket, error);
    });
    wait(ticket);
  }
  Array read(int value) const {
    const Case::Value &described = case_.values.at(static_cast<size_t>(value));
    Array data{described.dtype, described.shape, {}};
    for (Dim &dim : data.shape) dim = Dim(elements({dim}, sizes_));
    data.bytes.resize(static_cast<size_t>(dtype_bytes(data.dtype, elements(data.shape, {}))));
    moe_ticket ticket = 0;
    check([&](moe_error *error) {
      return backend_->read(queue, buffers_.at(static_cast<size_t>(value)), 0, data.bytes.data(), data.bytes.size(),
                            &ticket, error);
    });
    wait(ticket);
    return data;
  }
  // Only gives the run to the queue.
  moe_ticket start(const std::vector<int64_t> &sizes = {}, const int32_t *cancel = nullptr) {
    if (!sizes.empty()) sizes_ = sizes;
    int64_t *const times = profiled ? profile.data() : nullptr;
    const moe_run described{program, arena, bindings_.data(), sizes_.data(), cancel, times};
    moe_ticket ticket = 0;
    check([&](moe_error *error) { return backend_->run(queue, &described, &ticket, error); });
    return ticket;
  }
  void wait(moe_ticket ticket) const {
    int32_t done = 0;
    check([&](moe_error *error) { return backend_->wait(queue, ticket, -1, &done, error); });
  }
  void run(const std::vector<int64_t> &sizes = {}, const int32_t *cancel = nullptr) { wait(start(sizes, cancel)); }

  // A buffer of this device, released with the session.
  moe_buffer *buffer(int64_t bytes) {
    moe_buffer *made = nullptr;
    check([&](moe_error *error) { return backend_->allocate(device, static_cast<size_t>(bytes), &made, error); });
    own(MOE_KIND_BUFFER, made);
    return made;
  }
  moe_buffer *buffer_of(int value) const { return buffers_.at(static_cast<size_t>(value)); }

  moe_device *device = nullptr;
  moe_queue *queue = nullptr;
  moe_program *program = nullptr;
  moe_buffer *arena = nullptr;
  bool profiled = true;              // a device may run a profiled graph another way
  std::vector<int64_t> profile;      // nanoseconds a node of the last run
  std::vector<size_t> weight_bytes;  // what weight_finish reported, by bank

 private:
  template <typename Object>
  void own(int32_t kind, Object *object) {
    handles_.all.push_back(std::make_unique<Handle>(backend_, kind, object));
  }
  int64_t reserve(int64_t bytes) { return std::exchange(arena_bytes_, arena_bytes_ + align_up(bytes)); }
  moe_weight *load(const Bank &bank) {
    const std::vector<moe_part> parts = parts_of(bank.form);
    const moe_weight_spec spec = weight_spec(bank.form, parts);
    moe_weight *weight = nullptr;
    check([&](moe_error *error) { return backend_->weight_begin(device, &spec, &weight, error); });
    own(MOE_KIND_WEIGHT, weight);
    for (int32_t s = 0; s < bank.form.slots; ++s) {
      const Bank::Slot &slot = bank.slots.at(static_cast<size_t>(s));
      const int64_t half = slot.out / 2;  // two pieces, so that rows are put at more than one place
      const auto put = [&](int32_t part, int64_t row, int64_t rows, const moe_plain &plain) {
        if (rows == 0) return;
        check([&](moe_error *error) { return backend_->weight_put(weight, part, s, row, rows, &plain, error); });
      };
      const auto place = [](const Array &from, int64_t element) -> const void * {
        return from.bytes.empty() ? nullptr : from.bytes.data() + dtype_bytes(from.dtype, element);
      };
      for (const auto &[row, rows] : {std::pair{half, slot.out - half}, std::pair{int64_t{0}, half}}) {
        put(0, row, rows,
            {slot.values.data() + row * slot.row_bytes, place(slot.scale, row * slot.groups),
             place(slot.offset, row * slot.groups), nullptr, nullptr});
        if (bank.form.bias) put(1, row, rows, {place(slot.bias, row), nullptr, nullptr, nullptr, nullptr});
      }
    }
    size_t bytes = 0;
    check([&](moe_error *error) { return backend_->weight_finish(weight, &bytes, error); });
    weight_bytes.push_back(bytes);
    return weight;
  }
  moe_weight *load(const PlainBank &bank) {
    moe_weight_spec spec = bank.spec;
    spec.parts = bank.parts.data();
    spec.part_count = static_cast<int32_t>(bank.parts.size());
    moe_weight *weight = nullptr;
    check([&](moe_error *error) { return backend_->weight_begin(device, &spec, &weight, error); });
    own(MOE_KIND_WEIGHT, weight);
    for (const PlainBank::Piece &piece : bank.pieces) {
      check([&](moe_error *error) {
        return backend_->weight_put(weight, piece.part, piece.slot, piece.row, piece.rows, &piece.plain, error);
      });
    }
    size_t bytes = 0;
    check([&](moe_error *error) { return backend_->weight_finish(weight, &bytes, error); });
    weight_bytes.push_back(bytes);
    return weight;
  }
  void place_values() {
    sizes_ = case_.max_sizes;
    for (const Case::Value &value : case_.values) {
      moe_value made{};
      made.type = {value.dtype, static_cast<int32_t>(value.shape.size()), {}};
      for (size_t i = 0; i < value.shape.size(); ++i) made.type.dim[i] = {value.shape[i].factor, value.shape[i].symbol};
      made.role = value.role;
      made.binding = -1;
      made.arena_offset = -1;
      const int64_t bytes =
          value.role == MOE_ROLE_WEIGHT ? 0 : dtype_bytes(value.dtype, elements(value.shape, case_.max_sizes));
      moe_buffer *holder = nullptr;
      if (value.role == MOE_ROLE_WEIGHT) {
        made.weight = value.bank >= 0 ? load(case_.banks.at(static_cast<size_t>(value.bank)))
                                      : load(case_.plain_banks.at(static_cast<size_t>(value.plain_bank)));
      } else if (value.role == MOE_ROLE_INNER) {
        made.arena_offset = reserve(bytes);
      } else {
        holder = buffer(bytes);
        if (value.role == MOE_ROLE_CONSTANT) made.constant = holder;
        if (value.role != MOE_ROLE_CONSTANT)
          made.binding = static_cast<int32_t>(bindings_.size()), bindings_.push_back(holder);
      }
      values_.push_back(made);
      buffers_.push_back(holder);
      if (holder != nullptr) write(static_cast<int>(values_.size()) - 1, value.data);
    }
  }
  void place_nodes() {
    for (const Case::Node &node : case_.nodes) {
      moe_node made{};
      made.op = node.op;
      std::fill(std::begin(made.input), std::end(made.input), -1);
      std::fill(std::begin(made.output), std::end(made.output), -1);
      std::copy(node.inputs.begin(), node.inputs.end(), made.input);
      std::copy(node.outputs.begin(), node.outputs.end(), made.output);
      made.attributes = node.attributes.data();
      made.attribute_bytes = node.attributes.size();
      nodes_.push_back(made);
    }
  }
  moe_graph describe() const {
    return {values_.data(),
            nodes_.data(),
            static_cast<int32_t>(values_.size()),
            static_cast<int32_t>(nodes_.size()),
            static_cast<int32_t>(case_.max_sizes.size()),
            static_cast<int32_t>(bindings_.size()),
            case_.max_sizes.data()};
  }

  const moe_backend *backend_;
  const Case case_;
  struct Handles {
    ~Handles() {
      while (!all.empty()) all.pop_back();  // the device last
    }
    std::vector<std::unique_ptr<Handle>> all;
  } handles_;
  std::vector<moe_value> values_;
  std::vector<moe_node> nodes_;
  std::vector<moe_buffer *> buffers_, bindings_;
  std::vector<int64_t> sizes_;
  int64_t arena_bytes_ = 0;
};

// One run; the outputs and states read back, by value index (the others are empty).
inline std::vector<Array> run(const moe_backend *backend, const Case &graph, const char *options = "",
                              const std::vector<int64_t> &sizes = {}) {
  Session session(backend, graph, options);
  session.run(sizes);
  std::vector<Array> results(graph.values.size());
  for (size_t i = 0; i < results.size(); ++i) {
    const int32_t role = graph.values[i].role;
    if (role == MOE_ROLE_OUTPUT || role == MOE_ROLE_STATE) results[i] = session.read(static_cast<int>(i));
  }
  return results;
}

// Largest |a − b| / (1 + |b|); infinity where exactly one is NaN or the counts differ.
inline double difference(const std::vector<double> &a, const std::vector<double> &b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return HUGE_VAL;
    if (a[i] == b[i] || std::isnan(a[i])) continue;
    worst = std::max(worst, std::abs(a[i] - b[i]) / (1 + std::abs(b[i])));
  }
  return worst;
}
inline double difference(const Array &a, const Array &b) { return difference(a.values(), b.values()); }
inline double difference(const Array &a, const std::vector<double> &b) { return difference(a.values(), b); }

// The code of what `body` throws, MOE_OK where it throws nothing.
template <typename Body>
moe_error failure(Body &&body) {
  try {
    body();
  } catch (const Error &error) {
    return error.get();
  }
  return moe_error{};
}

}  // namespace moe::test
