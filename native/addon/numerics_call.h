// Reads the arguments of a function of native/numerics and makes its HostTask.
#pragma once
#include "addon/host_task.h"
#include "moe/checked.h"
#include "numerics/multiply.h"

namespace moe::addon {

// Reading a number may run JavaScript: a function reads all of its numbers before its first array.
class NumericsCall {
 public:
  static constexpr int64_t most_side = int64_t{1} << 31;

  explicit NumericsCall(const Napi::CallbackInfo &info) : info_(info), task_(std::make_unique<HostTask>(info.Env())) {}

  int64_t side(size_t index, const char *argument) const { return integer(info_[index], argument, 0, most_side); }
  double real(size_t index, const char *argument) const { return number(info_[index], argument); }
  bool flag(size_t index, const char *argument) const { return boolean(info_[index], argument); }

  template <typename Element>
  const Element *source(size_t index, const char *argument, int64_t count) {
    return reinterpret_cast<const Element *>(
        task_->add_source(view_of(info_[index], argument, dtype_of<Element>(), count)));
  }
  // Null for undefined.
  template <typename Element>
  const Element *optional_source(size_t index, const char *argument, int64_t count) {
    return info_[index].IsUndefined() ? nullptr : source<Element>(index, argument, count);
  }
  // A row-major matrix of f32 or f64.
  numerics::Operand matrix(size_t index, const char *argument, int64_t rows, int64_t columns) {
    const int64_t count = checked_multiply(rows, columns, argument);
    if (is_single(index, argument)) return numerics::Operand::of(source<float>(index, argument, count), columns);
    return numerics::Operand::of(source<double>(index, argument, count), columns);
  }
  bool is_single(size_t index, const char *argument) const {
    const int32_t type = view(info_[index], argument).type;
    if (type != napi_float32_array && type != napi_float64_array)
      refuse(argument, "a Float32Array or a Float64Array", info_[index]);
    return type == napi_float32_array;
  }
  // `filled`: starts as the caller's values.
  template <typename Element>
  Element *result(size_t index, const char *argument, int64_t count, bool filled = false) {
    const View target = view_of(info_[index], argument, dtype_of<Element>(), count);
    return reinterpret_cast<Element *>(task_->add_result(info_[index], target, argument, filled));
  }
  template <typename Body>
  Napi::Value run(Body body) {
    task_->body = std::move(body);
    return start(info_.Env(), std::move(task_));
  }

 private:
  template <typename Element>
  static constexpr int32_t dtype_of() {
    if constexpr (std::is_same_v<Element, float>) return MOE_F32;
    if constexpr (std::is_same_v<Element, double>) return MOE_F64;
    if constexpr (std::is_same_v<Element, int32_t>) return MOE_I32;
    if constexpr (std::is_same_v<Element, int8_t>) return MOE_I8;
    if constexpr (std::is_same_v<Element, uint8_t>) return MOE_U8;
  }

  const Napi::CallbackInfo &info_;
  std::unique_ptr<HostTask> task_;
};

}  // namespace moe::addon
