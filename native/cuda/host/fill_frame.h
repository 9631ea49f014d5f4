#pragma once
#include "host/launcher.h"

namespace moe::cuda {

// Addresses `first` … `first + count`, and the sizes where `first` is 0.
struct FrameValues {
  static constexpr int32_t most = 256;
  int64_t size[max_symbols];
  std::byte *address[most];
  int32_t first, count;
};

void fill_frame(Launcher &launcher, const FrameValues &values);

}  // namespace moe::cuda
