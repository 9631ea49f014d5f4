// NativeProgram: a compiled graph. States: live, disposed; runs in flight keep the program past dispose().
//
// A run borrows a RunSlot from its program's pool: device buffers for bindings that are host memory, allocated once at
// the largest sizes, and host staging where the device has no host address. A steady state of runs allocates nothing on
// the device.
#pragma once
#include <memory>
#include <vector>

#include "addon/buffer.h"
#include "addon/cancel.h"
#include "addon/graph.h"
#include "addon/queue.h"
#include "addon/resources.h"
#include "addon/wrapped.h"
#include "core/plan.h"

namespace moe::addon {

// What a run needs beside the program. Belongs to one run at a time.
struct RunSlot {
  std::vector<BufferPointer> own;      // a binding, made when it is first host memory
  std::vector<HostBlock> staging;      // a binding, where `own` has no host address
  std::vector<BufferPointer> bound;    // a binding, the caller's buffer while the run is in flight
  std::vector<moe_buffer *> bindings;  // what the backend sees
  std::vector<int64_t> bytes;          // a binding: bytes of host memory to move, -1 where a buffer is bound
  std::vector<int64_t> sizes;
  std::vector<int64_t> profile;
};

struct ProgramResource {
  ProgramResource(DevicePointer owner, moe_program *program, Plan plan, GraphOwners kept);
  ~ProgramResource() { device->backend.release(MOE_KIND_PROGRAM, handle); }
  ProgramResource(const ProgramResource &) = delete;
  ProgramResource &operator=(const ProgramResource &) = delete;

  std::unique_ptr<RunSlot> take_slot();
  void give_slot(std::unique_ptr<RunSlot> slot) noexcept;
  int64_t binding_bytes(size_t binding, const int64_t *sizes) const {
    const Layout &layout = layouts[binding];
    return layout.symbol < 0 ? layout.unit : layout.unit * sizes[layout.symbol];
  }

  // bytes = unit × size[symbol]; checked against overflow at the largest sizes when made.
  struct Layout {
    int32_t role, dtype, symbol;
    int64_t unit;
  };
  const DevicePointer device;
  moe_program *const handle;
  const Plan plan;
  const GraphOwners owners;
  std::vector<Layout> layouts;
  std::vector<std::unique_ptr<RunSlot>> slots;
};
using ProgramPointer = std::shared_ptr<ProgramResource>;

class Program final : public Wrapped<Program>, public Child {
 public:
  static constexpr ClassId id = ClassId::program;
  static constexpr const char *class_name = "NativeProgram";
  static std::vector<napi_property_descriptor> members();

  explicit Program(ProgramPointer resource);
  ~Program() override { Program::drop(); }
  void drop() noexcept override;

 private:
  // A binding of the call in progress.
  struct Bound {
    napi_value value;
    Buffer *buffer;     // null: host memory
    std::byte *memory;  // of a typed array
  };
  const ProgramPointer &alive() const;
  // Reads and checks the arguments; afterwards no JavaScript runs until the call ends.
  QueuePointer prepare(const Napi::CallbackInfo &info);
  void check_binding(napi_env env, size_t index);
  void check_aliases() const;
  std::unique_ptr<RunSlot> fill_slot(napi_env env, bool profile);
  void join(napi_env env, const QueuePointer &queue);

  napi_value bindings(const Napi::CallbackInfo &info);
  napi_value symbols(const Napi::CallbackInfo &info);
  napi_value arena_bytes(const Napi::CallbackInfo &info);
  napi_value run(const Napi::CallbackInfo &info);
  napi_value run_sync(const Napi::CallbackInfo &info);
  napi_value dispose(const Napi::CallbackInfo &info);

  ProgramPointer resource_;
  std::vector<std::weak_ptr<QueueResource>> queues_;  // that this program has joined
  uint64_t last_queue_ = 0;                           // id of the last one, which needs no search
  std::vector<Bound> bound_;                          // storage of prepare, kept from call to call
  std::vector<int64_t> sizes_;
};

}  // namespace moe::addon
