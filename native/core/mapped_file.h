// A regular file mapped read-only. Pages are read as they are touched; a file that another process shortens meanwhile
// faults, as with every mapping.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moe {

class MappedFile {
 public:
  // FILE_UNREADABLE naming the path: missing, no permission, not a regular file. An empty file has an empty span.
  explicit MappedFile(const std::string &path);
  ~MappedFile();
  MappedFile(MappedFile &&other) noexcept;
  MappedFile &operator=(MappedFile &&other) noexcept;
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;

  int64_t size() const { return static_cast<int64_t>(bytes_); }
  const std::byte *data() const { return data_; }
  // INVALID_ARGUMENT where offset or bytes is negative or the range ends past the file.
  std::span<const std::byte> range(int64_t offset, int64_t bytes) const;

 private:
  void unmap() noexcept;
  const std::byte *data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace moe
