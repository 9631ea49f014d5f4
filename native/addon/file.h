// NativeFile: a file mapped read-only. Weight loads in flight keep the mapping past dispose().
#pragma once
#include <memory>

#include "addon/wrapped.h"
#include "core/mapped_file.h"

namespace moe::addon {

using FilePointer = std::shared_ptr<const MappedFile>;

class File final : public Wrapped<File> {
 public:
  static constexpr ClassId id = ClassId::file;
  static constexpr const char *class_name = "NativeFile";
  static std::vector<napi_property_descriptor> members();

  explicit File(FilePointer file) : file_(std::move(file)) {}
  const FilePointer &alive(std::string_view argument) const;

 private:
  napi_value bytes(const Napi::CallbackInfo &info);
  napi_value read(const Napi::CallbackInfo &info);
  napi_value dispose(const Napi::CallbackInfo &info);

  FilePointer file_;
};

// Bytes of a mapped file or of a typed array (copied): {file, offset, bytes} or a typed array.
class HostBytes {
 public:
  HostBytes() = default;
  static HostBytes read(const Napi::Value &value, const std::string &argument);  // may run JavaScript
  const std::byte *data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  FilePointer file_;
  HostBlock block_;
  const std::byte *data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace moe::addon
