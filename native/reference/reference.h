// The executable specification: every operation as one obvious loop over doubles. Declarations of the whole room.
//
// A node's operands are bound twice: at compile with the largest sizes and no data, so that `plan` checks shapes and
// sizes the scratch, and at each run with data, where `plan` is asked again before `run` (sizes may disagree).
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "moe/checked.h"
#include "moe/dtype.h"
#include "moe/error.h"
#include "moe/half.h"
#include "moe/operations.h"
#include "moe/part.h"

namespace moe::reference {

// ---- elements; the rest in element.cc
// ----------------------------------------------------------------------------------------------

// The element `index` of `data`; F16 and BF16 widen exactly.
inline double load(int32_t dtype, const void *data, int64_t index) {
  switch (dtype) {
    case MOE_F32:
      return static_cast<const float *>(data)[index];
    case MOE_F16:
      return f16_to_f32(static_cast<const uint16_t *>(data)[index]);
    case MOE_BF16:
      return bf16_to_f32(static_cast<const uint16_t *>(data)[index]);
    case MOE_F64:
      return static_cast<const double *>(data)[index];
    case MOE_I32:
      return static_cast<const int32_t *>(data)[index];
    case MOE_I8:
      return static_cast<const int8_t *>(data)[index];
    default:
      return static_cast<const uint8_t *>(data)[index];
  }
}
// One rounding, half to even, from the double to the dtype; I32 truncates.
void store(int32_t dtype, void *data, int64_t index, double value);

// An operand: dense, row-major; `data` is null while planning.
struct Tensor {
  int32_t dtype = -1, role = -1, rank = 0;
  std::array<int64_t, MOE_MAX_RANK> dim{};
  std::byte *data = nullptr;
  moe_weight *weight = nullptr;

  explicit operator bool() const { return rank > 0; }
  int64_t rows() const { return rank > 0 ? dim[0] : 1; }
  int64_t width() const {  // elements of a row
    int64_t width = 1;
    for (size_t i = 1; i < static_cast<size_t>(rank); ++i) width *= dim[i];
    return width;
  }
  int64_t elements() const { return rows() * width(); }
  int64_t bytes() const { return dtype_bytes(dtype, elements()); }
  double at(int64_t index) const { return load(dtype, data, index); }
  void set(int64_t index, double value) const { store(dtype, data, index, value); }
  int32_t integer(int64_t index) const { return reinterpret_cast<const int32_t *>(data)[index]; }
  void set_integer(int64_t index, int32_t value) const { reinterpret_cast<int32_t *>(data)[index] = value; }
};

// ---- operations (operations/*.cc)
// ---------------------------------------------------------------------------------------

struct Node {
  int32_t op = 0;
  std::array<Tensor, MOE_MAX_INPUTS> input{};
  std::array<Tensor, MOE_MAX_OUTPUTS> output{};
  const void *attributes = nullptr;
  std::byte *scratch = nullptr;

  template <typename Attributes>
  const Attributes &as() const {
    return *static_cast<const Attributes *>(attributes);
  }
};

struct Operation {
  std::string_view name;
  size_t attribute_bytes;
  int64_t (*plan)(const Node &);  // checks operands and attributes; bytes of scratch
  void (*run)(const Node &);
};
const Operation &operation(int32_t op);  // throws MOE_UNSUPPORTED

#define MOE_REFERENCE_OPERATION(name)    \
  int64_t plan_##name(const Node &node); \
  void run_##name(const Node &node)
MOE_REFERENCE_OPERATION(embed);
MOE_REFERENCE_OPERATION(norm);
MOE_REFERENCE_OPERATION(linear);
MOE_REFERENCE_OPERATION(rotate);
MOE_REFERENCE_OPERATION(attention);
MOE_REFERENCE_OPERATION(map);
MOE_REFERENCE_OPERATION(route);
MOE_REFERENCE_OPERATION(combine);
MOE_REFERENCE_OPERATION(convolve);
MOE_REFERENCE_OPERATION(take);
MOE_REFERENCE_OPERATION(score);
MOE_REFERENCE_OPERATION(accumulate);
#undef MOE_REFERENCE_OPERATION

// Checks for `plan`: each names the operation and the operand.
void expect_float(const Tensor &tensor, std::string_view name);
void expect_dtype(const Tensor &tensor, int32_t dtype, std::string_view name);
void expect_count(const Tensor &tensor, int64_t elements, std::string_view name);
void expect(bool holds, std::string_view name, std::string_view expected, int64_t received);

double activate(int32_t activation, double value);  // moe_activation, the ungated ones
// Rows of slot `s` of a bank, clamped so that broken offsets never reach past `rows`.
struct Range {
  int64_t begin, end;
};
Range slot_rows(const Tensor &offsets, int64_t s, int64_t rows);
// Logits as route and score read them: NaN is the lowest, all within ±3e38, f32.
float clamped_logit(double logit);

// ---- objects (device.cc, queue.cc, program.cc, weight.cc)
// -----------------------------------------------------------------

// What a creator holds until it calls release; jobs in flight share the object.
template <typename Object>
struct Handle : std::enable_shared_from_this<Object> {
  std::shared_ptr<Object> creator;
};

// Bytes taken from a device's limit, given back at the end of life.
class Charge {
 public:
  Charge() = default;
  Charge(std::shared_ptr<moe_device> device, int64_t bytes);
  Charge(Charge &&) noexcept = default;
  Charge &operator=(Charge &&) noexcept = delete;
  ~Charge();

 private:
  std::shared_ptr<moe_device> device_;
  int64_t bytes_ = 0;
};

inline constexpr int poison = 0xff;  // four of them are a float NaN, eight a double NaN

}  // namespace moe::reference

struct moe_device : moe::reference::Handle<moe_device> {
  bool foreign = false;
  std::mutex mutex;
  moe_memory memory{};
};

struct moe_buffer : moe::reference::Handle<moe_buffer> {
  struct Free {
    void operator()(std::byte *data) const { std::free(data); }
  };
  moe_buffer(std::shared_ptr<moe_device> owner, size_t size);
  std::shared_ptr<moe_device> device;
  moe::reference::Charge charge;
  size_t bytes;
  std::unique_ptr<std::byte, Free> data;
};

struct moe_weight : moe::reference::Handle<moe_weight> {
  // A slot of a part in the plain form.
  struct Matrix {
    moe_part form;
    int64_t rows, columns;
    std::vector<std::byte> values, scale, offset, outer, index;
    std::vector<bool> present;  // by row

    bool integer() const { return moe::integer_store(form.store); }
    double value(int64_t row, int64_t j) const;    // what element j of a row means
    int32_t code(int64_t row, int64_t j) const;    // of an integer part; times its inner scale where there is an outer
    int64_t column(int64_t row, int64_t j) const;  // the input that element j of a row meets
    double scale_of(int64_t row, int64_t block) const;  // that `code` is multiplied by
    double offset_of(int64_t row, int64_t block) const;
    int64_t block() const { return form.outer >= 0 ? 0 : form.group; }  // inputs that share it; 0: the row
    int32_t kept_row(int64_t i) const { return reinterpret_cast<const int32_t *>(index.data())[i]; }
  };
  struct Part {
    moe_part form;  // ragged is NULL: each matrix has its own size
    std::vector<Matrix> slots;
  };
  moe_weight(std::shared_ptr<moe_device> owner, const moe_weight_spec &spec);
  void put(int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain &plain);
  void finish();

  const Matrix *matrix(int32_t kind, int64_t slot) const;  // nullptr: the bank has no such part
  bool integer() const;                                    // one of the parts has codes

  std::shared_ptr<moe_device> device;
  int64_t in, out, slots, bytes;
  bool gated, finished = false;
  moe::reference::Charge charge;
  std::vector<int64_t> in_of, out_of;
  std::vector<int32_t> base_of;
  std::vector<Part> parts;
};

struct moe_program : moe::reference::Handle<moe_program> {
  moe_program(std::shared_ptr<moe_device> owner, const moe_graph &graph);
  // The operands of a node at these sizes; data only where `arena` is given.
  moe::reference::Node bind(size_t node, const int64_t *sizes, moe_buffer *arena, moe_buffer *const *bindings) const;

  std::shared_ptr<moe_device> device;
  std::vector<moe_value> values;
  std::vector<moe_node> nodes;
  std::vector<std::vector<std::byte>> attributes;
  std::vector<int64_t> max_sizes, scratch;
  int32_t binding_count;
  int64_t arena_bytes = 0;
  std::vector<std::shared_ptr<moe_weight>> weights;  // kept alive
  std::vector<std::shared_ptr<moe_buffer>> constants;
};

namespace moe::reference {

struct Transfer {
  std::shared_ptr<moe_buffer> buffer;
  size_t offset, bytes;
  const void *from;  // write
  void *to;          // read
};
struct Run {
  std::shared_ptr<moe_program> program;
  std::shared_ptr<moe_buffer> arena;
  std::vector<std::shared_ptr<moe_buffer>> bindings;
  std::vector<int64_t> sizes;
  const int32_t *cancel;
  int64_t *profile;
};
using Job = std::variant<Transfer, Run>;

void execute(const Run &run, bool foreign);

}  // namespace moe::reference

// Jobs run where they are given; in foreign mode only once they are waited for, as on a device that works by itself.
struct moe_queue : moe::reference::Handle<moe_queue> {
  moe_ticket give(moe::reference::Job job);
  void wait(moe_ticket ticket);

  std::shared_ptr<moe_device> device;
  moe_ticket given = 0, done = 0;
  std::deque<moe::reference::Job> pending;
  std::map<moe_ticket, moe_error> failed;

 private:
  void perform(const moe::reference::Job &job);
};
