// Launches the tests' own kernels on the simt device, and runs one test of this program in a process of its own.
#pragma once
#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>

namespace moe::test {

struct Grid {
  unsigned blocks = 1, threads = 32;
  size_t shared_bytes = 0;
  bool cooperative = false;
};

class Stream {
 public:
  Stream() { cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, 0); }
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

  template <typename... Parameters, typename... Arguments>
  void give(void (*kernel)(Parameters...), const Grid &grid, Arguments &&...arguments) {
    cudaLaunchAttribute attribute{cudaLaunchAttributeCooperative, {}};
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config{grid.blocks, grid.threads, grid.shared_bytes, stream_, &attribute, grid.cooperative};
    cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  }
  // What went wrong up to here, or "".
  std::string end() {
    const cudaError_t error = cudaStreamSynchronize(stream_);
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
  }

 private:
  cudaStream_t stream_ = nullptr;
};

// One launch to its end: what went wrong, or "".
template <typename... Parameters, typename... Arguments>
std::string launch(void (*kernel)(Parameters...), const Grid &grid, Arguments &&...arguments) {
  Stream stream;
  stream.give(kernel, grid, std::forward<Arguments>(arguments)...);
  return stream.end();
}

inline bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

struct Child {
  bool clean;  // it ended with status 0
  std::string output;
};
// Runs the test case of this name alone, also where it is decorated with skip().
inline Child run_alone(const std::string &test_case) {
  char program[4096] = {};
  REQUIRE(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
  const std::string command = "'" + std::string(program) + "' --no-skip --test-case='" + test_case + "' 2>&1";
  std::FILE *const pipe = popen(command.c_str(), "r");
  REQUIRE(pipe);
  Child child{false, ""};
  char part[4096];
  for (size_t bytes; (bytes = std::fread(part, 1, sizeof part, pipe)) > 0;) child.output.append(part, bytes);
  const int status = pclose(pipe);
  child.clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return child;
}

}  // namespace moe::test
