// Local memory as in indexed_in_loop, but behind the loop: LDL is in the kernel and in no loop.
__global__ void indexed_once(const int *x, int *y, int steps) {
  int at = threadIdx.x;
#pragma unroll 1
  for (int s = 0; s < steps; s++) at ^= x[s];
  int table[512];
  for (int i = 0; i < 4; i++) table[(at >> i) & 511] = x[i];
  y[threadIdx.x] = table[steps & 511];
}
