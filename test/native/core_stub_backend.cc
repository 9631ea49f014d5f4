// Shared libraries for the registry's test: MOE_STUB_ABI is the version they claim; without it they have no entry.
#include "moe/backend.h"

#ifdef MOE_STUB_ABI
namespace {

int count(int32_t *count, moe_error *) {
  *count = 3;
  return MOE_OK;
}

constexpr moe_backend stub{.abi = MOE_STUB_ABI, .struct_bytes = sizeof(moe_backend), .name = "stub", .count = count};

}  // namespace

extern "C" __attribute__((visibility("default"))) const moe_backend *moe_backend_entry(void) { return &stub; }
#endif
