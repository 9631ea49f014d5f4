#include "addon/weight.h"

#include <cstring>

#include "addon/buffer.h"
#include "core/convert.h"

namespace moe::addon {

namespace {

constexpr int64_t chunk_bytes = int64_t{4} << 20;  // of source a step: how soon an abort is seen

// A packed bank in building; the resource goes to JavaScript when it is finished.
class LoadJob final : public PromiseJob {
 public:
  LoadJob(Napi::Env env, DevicePointer device, std::unique_ptr<WeightLoad> load, const int32_t *stop)
      : PromiseJob(env), device_(std::move(device)), load_(std::move(load)), stop_(stop) {}
  bool cancelled() const override { return load_->cancel && load_->cancel->is_set(); }

  void execute() override {
    const moe_backend &backend = device_->backend;
    moe_weight *handle = nullptr;
    check([&](moe_error *error) { return backend.weight_begin(device_->handle, &load_->spec, &handle, error); });
    weight_ = std::make_shared<WeightResource>(device_, handle);
    for (const WeightPiece &piece : load_->pieces) put(piece);
    size_t bytes = 0;
    check([&](moe_error *error) { return backend.weight_finish(handle, &bytes, error); });
    weight_->info = weight_info(load_->spec, bytes);
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (device_->disposed) refuse_disposed("device");
    weight_->external = std::make_unique<ExternalBytes>(env, weight_->info.packed_bytes);
    return Weight::make(env, std::make_unique<Weight>(std::move(weight_)));
  }

 private:
  void put(const WeightPiece &piece) {
    const int64_t columns = load_->columns(piece.part, piece.slot);
    const moe_part &target = load_->spec.parts[piece.part];
    const moe_part form = target.kind == MOE_PART_BIAS ? float_part(MOE_F32) : target;
    const RowBytes row = row_bytes(piece.form, columns);
    const int64_t step = std::max<int64_t>(1, chunk_bytes / std::max<int64_t>(1, std::max(row.values, columns * 4)));
    for (int64_t done = 0; done < piece.rows; done += step) {
      if (cancelled() || std::atomic_ref(const_cast<int32_t &>(*stop_)).load(std::memory_order_relaxed) != 0) {
        throw Error(MOE_ABORTED, "signal", "no abort", "an abort while a weight was loading");
      }
      const int64_t rows = std::min(step, piece.rows - done);
      const auto at = [&](const HostBytes &from, int64_t each) {
        return each > 0 ? from.data() + done * each : nullptr;
      };
      const moe_plain source{at(piece.values, row.values), at(piece.scale, row.scale), at(piece.offset, row.offset),
                             at(piece.outer, row.outer), aligned_index(at(piece.index, row.index), rows, target)};
      const moe_plain plain = convert_rows(piece.form, source, form, storage_, rows, columns, piece.row + done);
      check([&](moe_error *error) {
        return device_->backend.weight_put(weight_->handle, piece.part, piece.slot, piece.row + done, rows, &plain,
                                           error);
      });
    }
  }

  // Indices of rows may lie anywhere in a mapped file.
  const void *aligned_index(const std::byte *from, int64_t rows, const moe_part &part) {
    if (part.kind != MOE_PART_ROWS) return from;
    index_.resize(static_cast<size_t>(rows));
    std::memcpy(index_.data(), from, index_.size() * sizeof(int32_t));
    return index_.data();
  }

  DevicePointer device_;
  std::unique_ptr<WeightLoad> load_;
  const int32_t *stop_;
  WeightPointer weight_;
  PlainRows storage_;
  std::vector<int32_t> index_;
};

}  // namespace

std::vector<napi_property_descriptor> Weight::members() {
  return {getter<&Weight::bytes>("bytes"), method<&Weight::dispose>("dispose")};
}

Weight::Weight(WeightPointer resource) : resource_(std::move(resource)), bytes_(resource_->info.packed_bytes) {
  resource_->device->children.insert(this);
}

void Weight::drop() noexcept {
  if (!resource_) return;
  resource_->device->children.erase(this);
  resource_.reset();
}

const WeightPointer &Weight::alive(std::string_view argument) const {
  if (!resource_) refuse_disposed(argument);
  return resource_;
}

napi_value Weight::bytes(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
}

napi_value Weight::dispose(const Napi::CallbackInfo &info) {
  drop();
  return info.Env().Undefined();
}

Napi::Value start_weight_load(Napi::Env env, const DevicePointer &device, std::unique_ptr<WeightLoad> load) {
  Worker &worker = Environment::of(env).loads;
  auto job = std::make_unique<LoadJob>(env, device, std::move(load), worker.cancel_word());
  const Napi::Promise promise = job->promise();
  worker.push(env, std::move(job));
  return promise;
}

}  // namespace moe::addon
