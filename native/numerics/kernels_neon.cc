#define MOE_SET neon
#define MOE_LANES 2
#define MOE_TILE_ROWS 6
#define MOE_TILE_VECTORS 4
#include "numerics/kernels.inl"
