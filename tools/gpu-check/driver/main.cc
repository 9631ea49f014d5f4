// Checks a device's kernels and measures them, with no more than this program and the device's library beside it:
//
//   moe_gpu_check conformance --device cuda --against reference [--only OPERATION] [--cases N] [--seed N] [--verbose]
//   moe_gpu_check bench --device cuda [--json FILE] [--only ROW] [--small]
//   moe_gpu_check describe --device cuda
//
// --libraries FOLDER: where moe_<device>.so lies; default: the folder of this program.
// Status: 0 fine; 1 something differs; 2 wrong arguments; 3 the device cannot be used, with the reason.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "bench.h"
#include "conformance.h"
#include "core/registry.h"
#include "moe/error.h"

namespace {

using namespace moe;

constexpr int status_differs = 1, status_usage = 2, status_unavailable = 3;

// --name value, or --name alone.
std::map<std::string, std::string> options_of(int count, char **arguments) {
  std::map<std::string, std::string> options;
  for (int i = 2; i < count; ++i) {
    const std::string name = arguments[i];
    if (!name.starts_with("--")) throw Error(MOE_INVALID_ARGUMENT, name, "an option, --name", name);
    const bool alone = name == "--verbose" || name == "--small";
    if (!alone && i + 1 == count) throw Error(MOE_INVALID_ARGUMENT, name, "a value", "nothing");
    options[name] = alone ? "1" : arguments[++i];
  }
  return options;
}

std::string own_folder() {
  std::string path(4096, '\0');
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  path.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return path.substr(0, path.find_last_of('/'));
}

// The device's functions, where it has at least one device.
const moe_backend &usable(const Registry &registry, const std::string &name) {
  const moe_backend &found = registry.find(name);
  int32_t count = 0;
  moe_error reason{};
  found.count(&count, &reason);
  if (count == 0) throw Error(reason);
  return found;
}

int run(const std::string &command, std::map<std::string, std::string> options) {
  const auto take = [&](const char *name, const char *otherwise) {
    const auto at = options.find(name);
    if (at == options.end()) return std::string(otherwise);
    const std::string value = at->second;
    options.erase(at);
    return value;
  };
  const auto number = [&](const char *name, const char *otherwise) {
    return static_cast<int>(std::strtol(take(name, otherwise).c_str(), nullptr, 10));
  };
  const Registry registry(take("--libraries", own_folder().c_str()));
  const std::string name = take("--device", "cuda");
  const moe_backend &device = usable(registry, name);
  const auto all_taken = [&] {
    if (!options.empty()) throw Error(MOE_INVALID_ARGUMENT, options.begin()->first, "a known option", "another");
  };
  if (command == "describe") {
    all_taken();
    std::printf("%s\n", gpu_check::describe(device).c_str());
    return 0;
  }
  if (command == "conformance") {
    const moe_backend &against = usable(registry, take("--against", "reference"));
    gpu_check::ConformanceOptions wanted;
    wanted.only = take("--only", "");
    wanted.cases = number("--cases", "8");
    wanted.seed = static_cast<uint32_t>(number("--seed", "1"));
    wanted.verbose = take("--verbose", "") == "1";
    all_taken();
    return gpu_check::run_conformance(device, against, wanted) == 0 ? 0 : status_differs;
  }
  if (command == "bench") {
    gpu_check::BenchOptions wanted;
    wanted.only = take("--only", "");
    wanted.json = take("--json", "");
    wanted.cublas = name == "cuda";
    wanted.small = take("--small", "") == "1";
    all_taken();
    gpu_check::run_bench(device, wanted);
    return 0;
  }
  throw Error(MOE_INVALID_ARGUMENT, "command", "conformance, bench or describe", command);
}

}  // namespace

int main(int count, char **arguments) {
  try {
    return run(count > 1 ? arguments[1] : "", options_of(count, arguments));
  } catch (const moe::Error &error) {
    const moe_error &told = error.get();
    std::fprintf(stderr, "moe_gpu_check: %s: expected %s, received %s\n", told.argument, told.expected, told.received);
    return told.code == MOE_DEVICE_UNAVAILABLE ? status_unavailable : status_usage;
  }
}
