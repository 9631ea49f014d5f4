// The same dense products by cuBLAS in bf16, where its library is present: what our times stand beside.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace moe::gpu_check {

// y [tokens, out] = x [tokens, in] · w [out, in]ᵀ, all bf16, sums in f32.
struct DenseProduct {
  int64_t tokens = 0, in = 0, out = 0;
};

// How a benchmark times: seconds of one run, of what `start` enqueues and `wait` waits for.
using Timer = std::function<double(const std::function<void()> &start, const std::function<void()> &wait)>;

struct PeerTime {
  double seconds = 0;  // of one product
  std::string absent;  // why there is none, else ""
};

// libcublas and the driver's library, opened at run time: nothing is linked.
class Cublas {
 public:
  Cublas();
  ~Cublas();
  Cublas(const Cublas &) = delete;
  Cublas &operator=(const Cublas &) = delete;

  // `matrices` products of as many weights, so that they come from memory, are timed as one run.
  PeerTime time(const DenseProduct &product, int64_t matrices, const Timer &timer);

 private:
  struct Libraries;
  std::unique_ptr<Libraries> libraries_;
  std::string absent_;
};

}  // namespace moe::gpu_check
