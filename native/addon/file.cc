#include "addon/file.h"

#include <cstring>

#include "addon/buffer.h"

namespace moe::addon {

namespace {
constexpr int64_t any_size = int64_t{1} << 53;
}

std::vector<napi_property_descriptor> File::members() {
  return {getter<&File::bytes>("bytes"), method<&File::read>("read"), method<&File::dispose>("dispose")};
}

const FilePointer &File::alive(std::string_view argument) const {
  if (!file_) refuse_disposed(argument);
  return file_;
}

napi_value File::bytes(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(alive("file")->size()));
}

napi_value File::read(const Napi::CallbackInfo &info) {
  const MappedFile &file = *alive("file");
  const int64_t offset = integer(info[0], "offset", 0, any_size);
  const View to = view(info[1], "to");
  const std::span<const std::byte> range = file.range(offset, static_cast<int64_t>(to.bytes));
  if (!range.empty()) std::memcpy(to.data, range.data(), range.size());
  return info.Env().Undefined();
}

napi_value File::dispose(const Napi::CallbackInfo &info) {
  file_.reset();
  return info.Env().Undefined();
}

HostBytes HostBytes::read(const Napi::Value &value, const std::string &argument) {
  HostBytes result;
  if (is_typed_array(value.Env(), value)) {
    result.block_ = HostBlock::copy(view(value, argument));
    result.data_ = result.block_.data();
    result.bytes_ = static_cast<int64_t>(result.block_.bytes());
    return result;
  }
  if (!value.IsObject()) refuse(argument, "a typed array or {file, offset, bytes}", value);
  const Napi::Object range = value.As<Napi::Object>();
  const Napi::Value file = property(range, "file");
  const int64_t offset = integer(property(range, "offset"), argument + ".offset", 0, any_size);
  const int64_t bytes = integer(property(range, "bytes"), argument + ".bytes", 0, any_size);
  result.file_ = File::from(value.Env(), file, argument + ".file").alive(argument + ".file");
  result.data_ = result.file_->range(offset, bytes).data();
  result.bytes_ = bytes;
  return result;
}

}  // namespace moe::addon
