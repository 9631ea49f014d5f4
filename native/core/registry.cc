#include "core/registry.h"

#include <dirent.h>
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "core/types.h"
#include "moe/error.h"

// One line MOE_BACKEND(name) for each backend linked in; CMakeLists.txt writes the file.
#define MOE_BACKEND(name) extern "C" const moe_backend *moe_backend_##name(void);
#include "builtin_backends.inc"
#undef MOE_BACKEND

namespace moe {
namespace {

constexpr std::string_view prefix = "moe_", suffix = ".so";

// Names of the files moe_<name>.so of a directory, sorted, so that the order does not depend on the file system.
std::vector<std::string> library_files(const std::string &directory) {
  std::vector<std::string> files;
  const std::unique_ptr<DIR, int (*)(DIR *)> opened(opendir(directory.c_str()), closedir);
  if (!opened) return files;
  while (const dirent *entry = readdir(opened.get())) {
    const std::string_view file = entry->d_name;
    if (file.size() > prefix.size() + suffix.size() && file.starts_with(prefix) && file.ends_with(suffix))
      files.emplace_back(file);
  }
  std::sort(files.begin(), files.end());
  return files;
}

Error unusable(const std::string &path, const std::string &expected, const std::string &received) {
  return Error(MOE_DEVICE_UNAVAILABLE, path, expected, received);
}

}  // namespace

Registry::Registry(const std::string &directory) {
#define MOE_BACKEND(name) add(moe_backend_##name(), #name);
#include "builtin_backends.inc"
#undef MOE_BACKEND
  if (directory.empty()) return;
  for (const std::string &file : library_files(directory))
    load(directory + "/" + file, file.substr(prefix.size(), file.size() - prefix.size() - suffix.size()));
}

// Throws where the table of functions is of another version or the name is taken.
void Registry::add(const moe_backend *functions, std::string_view source) {
  const std::string abi = "abi " + std::to_string(MOE_ABI) + " with " + std::to_string(sizeof(moe_backend)) + " bytes";
  if (!functions) throw unusable(std::string(source), "a backend of " + abi, "none");
  if (functions->abi != MOE_ABI || functions->struct_bytes != sizeof(moe_backend))
    throw unusable(
        std::string(source), "a backend of " + abi,
        "abi " + std::to_string(functions->abi) + " with " + std::to_string(functions->struct_bytes) + " bytes");
  for (const Backend &backend : backends_)
    if (backend.functions && backend.name == functions->name)
      throw unusable(std::string(source), "a backend with a name of its own", quote(backend.name) + " twice");
  backends_.push_back({functions->name, functions, {}});
}

void Registry::load(const std::string &path, const std::string &name) {
  try {
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw unusable(path, "a library that loads", dlerror());
    using Entry = const moe_backend *(*)();
    const auto entry = reinterpret_cast<Entry>(dlsym(library, "moe_backend_entry"));
    if (!entry) throw unusable(path, "a library with moe_backend_entry", "one without");
    add(entry(), path);
  } catch (const Error &error) {
    backends_.push_back({name, nullptr, error.get()});
  }
}

const moe_backend &Registry::find(std::string_view name) const {
  std::string names;
  for (const Backend &backend : backends_) {
    if (backend.name == name) {
      if (!backend.functions) throw Error(backend.error);
      return *backend.functions;
    }
    names += (names.empty() ? "'" : ", '") + backend.name + "'";
  }
  throw Error(MOE_INVALID_ARGUMENT, "backend", names.empty() ? "a backend that is installed" : names, quote(name));
}

Availability availability(const Backend &backend) {
  if (!backend.functions) return {0, backend.error};
  Availability found{};
  if (backend.functions->count(&found.count, &found.error) != MOE_OK) found.count = 0;
  return found;
}

}  // namespace moe
