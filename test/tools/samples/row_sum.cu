// Good: wide loads in a loop, all values in registers.
namespace moe::cuda {
namespace {
template <int Threads>
__global__ void __launch_bounds__(Threads) row_sum(const float4 *rows, float *sums, int count) {
  __shared__ float partial[Threads];
  float sum = 0;
  const float4 *row = rows + static_cast<size_t>(blockIdx.x) * count;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += Threads) {
    const float4 x = row[i];
    sum += x.x + x.y + x.z + x.w;
  }
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x == 0) sums[blockIdx.x] = partial[0] + partial[Threads - 1];
}
template __global__ void row_sum<128>(const float4 *, float *, int);
template __global__ void row_sum<256>(const float4 *, float *, int);
}  // namespace
}  // namespace moe::cuda
