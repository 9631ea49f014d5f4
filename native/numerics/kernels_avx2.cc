#define MOE_SET avx2
#define MOE_LANES 4
#define MOE_TILE_ROWS 4
#define MOE_TILE_VECTORS 3
#include "numerics/kernels.inl"
