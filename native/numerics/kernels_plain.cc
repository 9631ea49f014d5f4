#define MOE_SET plain
#define MOE_LANES 2
#define MOE_TILE_ROWS 4
#define MOE_TILE_VECTORS 2
#include "numerics/kernels.inl"
