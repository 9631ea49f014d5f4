// Launches the kernels of a run on a stream.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "check.h"
#include "device.h"
#include "kernel/frame.h"

namespace moe::cuda {

// What a launch has to move and to compute at the largest sizes: the plan that `bench` and the traffic tests hold it to.
struct Work {
  const char *kernel;  // its name as a reader of docs/performance.md knows it
  int64_t bytes = 0, operations = 0;
};

struct Grid {
  dim3 blocks;
  unsigned threads;
  size_t shared_bytes = 0;
  bool cooperative = false;  // all blocks at once; no more of them than fit
};

class Launcher {
 public:
  Launcher(const Device &device, cudaStream_t stream, const Frame *frame)
      : device_(device), stream_(stream), frame_(frame) {}

  const Device &device() const { return device_; }
  cudaStream_t stream() const { return stream_; }

  // kernel(frame, arguments …). An empty grid launches nothing.
  template <typename... Parameters, typename... Arguments>
  void run(const Work &work, void (*kernel)(const Frame *, Parameters...), const Grid &grid, Arguments &&...arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
    if (grid.shared_bytes > size_t{48} << 10)
      MOE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(grid.shared_bytes)));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid.blocks;
    config.blockDim = dim3(grid.threads);
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream_;
    config.attrs = &attribute;
    config.numAttrs = grid.cooperative ? 1 : 0;
    device_.count_work(work, grid.threads, grid.shared_bytes);
    MOE_CUDA(cudaLaunchKernelEx(&config, kernel, frame_, std::forward<Arguments>(arguments)...));
  }

  void fill(void *address, int value, size_t bytes) { MOE_CUDA(cudaMemsetAsync(address, value, bytes, stream_)); }

 private:
  const Device &device_;
  cudaStream_t stream_;
  const Frame *frame_;
};

inline unsigned blocks_for(int64_t items, int64_t each) { return static_cast<unsigned>((items + each - 1) / each); }

}  // namespace moe::cuda
