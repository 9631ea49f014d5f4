// Bad: an array that is indexed at run time lies in local memory, so there is a stack frame, and LDL in the loop.
__global__ void indexed_in_loop(const int *x, int *y, int steps) {
  int table[32];
#pragma unroll
  for (int i = 0; i < 32; i++) table[i] = x[i] + threadIdx.x;
  int at = threadIdx.x & 31;
#pragma unroll 1
  for (int s = 0; s < steps; s++) at = table[at] & 31;
  y[threadIdx.x] = at;
}
