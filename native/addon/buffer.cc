#include "addon/buffer.h"

namespace moe::addon {

void refuse_disposed(std::string_view argument) {
  throw Error(MOE_DISPOSED, argument, "a live " + std::string(argument), "a disposed one");
}

std::vector<napi_property_descriptor> Buffer::members() {
  return {getter<&Buffer::bytes>("bytes"), method<&Buffer::dispose>("dispose")};
}

Buffer::Buffer(BufferPointer resource) : resource_(std::move(resource)), bytes_(resource_->bytes) {
  resource_->device->children.insert(this);
}

void Buffer::drop() noexcept {
  if (!resource_) return;
  resource_->device->children.erase(this);
  resource_.reset();
}

const BufferPointer &Buffer::alive(std::string_view argument) const {
  if (!resource_) refuse_disposed(argument);
  return resource_;
}

napi_value Buffer::bytes(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
}

napi_value Buffer::dispose(const Napi::CallbackInfo &info) {
  drop();
  return info.Env().Undefined();
}

}  // namespace moe::addon
