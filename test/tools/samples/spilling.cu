// Bad: more values alive at once than two blocks of 1024 threads have registers for, so ptxas spills.
__global__ void __launch_bounds__(1024, 2) spilling(const float *x, float *y, int steps) {
  float value[40];
#pragma unroll
  for (int i = 0; i < 40; i++) value[i] = x[i * 1024 + threadIdx.x];
#pragma unroll 1
  for (int s = 0; s < steps; s++)
#pragma unroll
    for (int i = 0; i < 40; i++) value[i] = value[i] * value[(i + 7) % 40] + x[s];
#pragma unroll
  for (int i = 0; i < 40; i++) y[i * 1024 + threadIdx.x] = value[i];
}
