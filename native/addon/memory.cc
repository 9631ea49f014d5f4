// glibc keeps freed blocks below its threshold for mapping, which rises to 32 MB by itself: after some hundred passes that
// hold arrays of a few megabytes for a moment, a gigabyte (docs/compression.md). To trim leaves the settings of the
// process, which is not ours, alone.
#include "addon/memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "addon/host_task.h"

namespace moe::addon {

napi_value release_memory(const Napi::CallbackInfo &info) {
  auto task = std::make_unique<HostTask>(info.Env());
  task->body = [] {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
  };
  return start(info.Env(), std::move(task));
}

}  // namespace moe::addon
