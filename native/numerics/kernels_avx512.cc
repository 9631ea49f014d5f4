#define MOE_SET avx512
#define MOE_LANES 8
#define MOE_TILE_ROWS 8
#define MOE_TILE_VECTORS 3
#include "numerics/kernels.inl"
