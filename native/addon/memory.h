#pragma once
#include <napi.h>

namespace moe::addon {

// () → Promise<void>: what was freed goes back to the system, where the C library would keep it for later.
napi_value release_memory(const Napi::CallbackInfo &info);

}  // namespace moe::addon
