#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "moe/error.h"

namespace moe {
namespace {

[[noreturn]] void unreadable(const std::string &path, const std::string &received) {
  throw Error(MOE_FILE_UNREADABLE, path, "a readable file", received);
}

// Closes when it goes; the mapping outlives it.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

}  // namespace

MappedFile::MappedFile(const std::string &path) {
  if (path.find('\0') != std::string::npos) unreadable(path.c_str(), "a path with a zero byte");
  // Without O_NONBLOCK opening a fifo would wait for a writer.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.number() < 0) unreadable(path, std::string(std::strerror(errno)) + ": " + path);
  struct stat status{};
  if (fstat(file.number(), &status) != 0) unreadable(path, std::string(std::strerror(errno)) + ": " + path);
  if (S_ISDIR(status.st_mode)) unreadable(path, "a directory: " + path);
  if (!S_ISREG(status.st_mode)) unreadable(path, "not a regular file: " + path);
  if (status.st_size == 0) return;
  void *address = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (address == MAP_FAILED) unreadable(path, std::string(std::strerror(errno)) + ": " + path);
  data_ = static_cast<const std::byte *>(address);
  bytes_ = static_cast<size_t>(status.st_size);
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() noexcept {
  if (data_) munmap(const_cast<std::byte *>(data_), bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

MappedFile::MappedFile(MappedFile &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile &MappedFile::operator=(MappedFile &&other) noexcept {
  if (this == &other) return *this;
  unmap();
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

std::span<const std::byte> MappedFile::range(int64_t offset, int64_t bytes) const {
  if (offset < 0 || bytes < 0 || offset > size() || bytes > size() - offset)
    throw Error(MOE_INVALID_ARGUMENT, "offset", "a range within the " + std::to_string(size()) + " bytes of the file",
                std::to_string(bytes) + " bytes from " + std::to_string(offset));
  return {data_ + offset, static_cast<size_t>(bytes)};
}

}  // namespace moe
