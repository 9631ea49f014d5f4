#include "addon/environment.h"

#include "addon/errors.h"

namespace moe::addon {

Environment::Environment(Napi::Env env) : loop(std::make_shared<Loop>(env)), loads(loop), host_tasks(loop) {}

Environment &Environment::of(napi_env env) {
  void *data = nullptr;
  napi_check(env, napi_get_instance_data(env, &data));
  return *static_cast<Environment *>(data);
}

void Environment::close() noexcept { loop->close(); }

}  // namespace moe::addon
