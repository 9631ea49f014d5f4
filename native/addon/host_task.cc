#include "addon/host_task.h"

#include "addon/environment.h"
#include "addon/errors.h"
#include "addon/file.h"
#include "addon/weight.h"
#include "core/convert.h"
#include "moe/checked.h"

namespace moe::addon {

std::byte *HostTask::add_result(const Napi::Value &array, const View &view, const char *argument, bool filled) {
  results_.push_back({filled ? HostBlock::copy(view) : HostBlock(view.bytes), HostTarget(array, argument, view.bytes)});
  return results_.back().block.data();
}

const std::byte *HostTask::add_source(const View &view) {
  sources_.push_back(HostBlock::copy(view));
  return sources_.back().data();
}

Napi::Value HostTask::result(Napi::Env env) {
  for (const Result &result : results_) result.array.store(env, result.block.data());
  return env.Undefined();
}

Napi::Value start(Napi::Env env, std::unique_ptr<HostTask> task) {
  const Napi::Promise promise = task->promise();
  Environment::of(env).host_tasks.push(env, std::move(task));
  return promise;
}

namespace {

constexpr int64_t max_side = int64_t{1} << 31;

// A u8 array of exactly this many bytes, or undefined where there are none.
View part_of(const Napi::Value &value, const char *argument, int64_t bytes) {
  if (bytes == 0) {
    if (!value.IsUndefined()) refuse(argument, "undefined: the form has none", value);
    return {};
  }
  return view_of(value, argument, MOE_U8, bytes);
}

}  // namespace

napi_value quantize(const Napi::CallbackInfo &info) {
  const int64_t rows = integer(info[1], "rows", 0, max_side), columns = integer(info[2], "columns", 1, max_side);
  const moe_part form = read_form(info[3], "form");
  const RowBytes row = row_bytes(form, columns);
  const View from = view_of(info[0], "from", MOE_F32, checked_multiply(rows, columns, "rows"));
  const View values = view_of(info[4], "values", MOE_U8, checked_multiply(row.values, rows, "rows"));
  const View scale = part_of(info[5], "scale", checked_multiply(row.scale, rows, "rows"));
  const View offset = part_of(info[6], "offset", checked_multiply(row.offset, rows, "rows"));
  const View outer = part_of(info[7], "outer", checked_multiply(row.outer, rows, "rows"));
  auto task = std::make_unique<HostTask>(info.Env());
  const moe_plain source{task->add_source(from), nullptr, nullptr, nullptr, nullptr};
  PlainTarget target{task->add_result(info[4], values, "values"), nullptr, nullptr};
  if (row.scale > 0 && rows > 0) target.scale = task->add_result(info[5], scale, "scale");
  if (row.offset > 0 && rows > 0) target.offset = task->add_result(info[6], offset, "offset");
  if (row.outer > 0 && rows > 0) target.outer = task->add_result(info[7], outer, "outer");
  task->body = [=] { convert_rows(float_part(MOE_F32), source, form, target, rows, columns); };
  return start(info.Env(), std::move(task));
}

napi_value dequantize(const Napi::CallbackInfo &info) {
  const int64_t rows = integer(info[3], "rows", 0, max_side), columns = integer(info[4], "columns", 1, max_side);
  const moe_part form = read_form(info[5], "form");
  const RowBytes row = row_bytes(form, columns);
  const auto source_of = [&](const Napi::Value &value, const char *argument, int64_t size) {
    auto bytes = std::make_shared<HostBytes>();
    if (size == 0) {
      if (!value.IsUndefined()) refuse(argument, "undefined: the form has none", value);
      return bytes;
    }
    *bytes = HostBytes::read(value, argument);
    const int64_t expected = checked_multiply(size, rows, argument);
    if (bytes->bytes() != expected)
      throw Error(MOE_INVALID_ARGUMENT, argument, std::to_string(expected) + " bytes",
                  std::to_string(bytes->bytes()) + " bytes");
    return bytes;
  };
  const auto values = source_of(info[0], "values", row.values), scale = source_of(info[1], "scale", row.scale),
             offset = source_of(info[2], "offset", row.offset), outer = source_of(info[7], "outer", row.outer);
  const View to = view_of(info[6], "to", MOE_F32, checked_multiply(rows, columns, "rows"));
  auto task = std::make_unique<HostTask>(info.Env());
  const PlainTarget target{task->add_result(info[6], to, "to"), nullptr, nullptr};
  task->body = [=] {
    const moe_plain source{values->data(), scale->data(), offset->data(), outer->data(), nullptr};
    convert_rows(form, source, float_part(MOE_F32), target, rows, columns);
  };
  return start(info.Env(), std::move(task));
}

}  // namespace moe::addon
