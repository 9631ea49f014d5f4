// The linear kernels of amx over tiles in memory: they differ from it in nothing but those.
#define MOE_ISA amx_twin
#define MOE_TILE_TWIN
#include "simd/amx.h"
#include "simd/avx512.h"
// The algorithms come after it.
#include "linear/kernels.inl"
