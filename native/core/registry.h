// The list of backends: those linked in, and shared libraries moe_*.so of a directory. Names come from the backends
// themselves.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "moe/backend.h"

namespace moe {

struct Backend {
  std::string name;              // of the backend; of the file (moe_<name>.so) where it did not load
  const moe_backend *functions;  // null where it did not load
  moe_error error{};             // why not
};

// Devices of a backend; count 0 comes with the reason.
struct Availability {
  int32_t count;
  moe_error error;
};
// Asks each time: a device may come and go.
Availability availability(const Backend &backend);

class Registry {
 public:
  // directory "": only what is linked in. A directory that is missing or unreadable counts as empty. Libraries stay
  // loaded until the process ends, since their threads may outlive every handle.
  explicit Registry(const std::string &directory);
  const std::deque<Backend> &backends() const { return backends_; }
  // INVALID_ARGUMENT for an unknown name; the backend's own error where it did not load.
  const moe_backend &find(std::string_view name) const;

 private:
  void add(const moe_backend *functions, std::string_view source);
  void load(const std::string &path, const std::string &name);
  std::deque<Backend> backends_;
};

}  // namespace moe
