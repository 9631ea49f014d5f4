// Fills a run's frame: sizes and addresses travel as the parameters of a launch, so that no host memory has to stay alive.
#include "host/fill_frame.h"

namespace moe::cuda {

__global__ void fill_frame_kernel(const Frame *frame, FrameValues values) {
  // Every other kernel only reads it, but for its counters.
  Frame *const to = const_cast<Frame *>(frame);
  if (threadIdx.x < max_symbols && values.first == 0) to->size[threadIdx.x] = values.size[threadIdx.x];
  if (threadIdx.x == 0 && values.first == 0) to->arrivals = 0;
  if (values.first == 0)
    for (unsigned i = threadIdx.x; i < Frame::most_row_blocks; i += blockDim.x) to->finished[i] = 0;
  if (static_cast<int32_t>(threadIdx.x) < values.count)
    to->address[values.first + static_cast<int32_t>(threadIdx.x)] = values.address[threadIdx.x];
}

void fill_frame(Launcher &launcher, const FrameValues &values) {
  launcher.run({"fill_frame"}, fill_frame_kernel, {dim3(1), FrameValues::most}, values);
}

}  // namespace moe::cuda
