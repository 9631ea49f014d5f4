#include "addon/weight.h"

#include <algorithm>
#include <cstring>

#include "addon/buffer.h"
#include "core/convert.h"
#include "numerics/parallel.h"

namespace moe::addon {

namespace {

constexpr int64_t chunk_bytes = int64_t{4} << 20;     // of source or of f32, at most: how soon an abort is seen
constexpr int64_t bytes_at_once = int64_t{16} << 20;  // of all chunks that are converted at the same time
constexpr int64_t most_at_once = 16;                  // such chunks

// Some rows of a piece, converted to the form of the bank.
struct Chunk {
  const WeightPiece *piece;
  int64_t first, rows;
};
struct Converted {
  moe_plain plain;
  PlainRows storage;
  std::vector<int32_t> index;
};

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
    const int64_t at_once = std::min<int64_t>(most_at_once, numerics::thread_count());
    put_all(chunks(std::min(chunk_bytes, bytes_at_once / at_once)), at_once);
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
  std::vector<Chunk> chunks(int64_t bytes) const {
    std::vector<Chunk> list;
    for (const WeightPiece &piece : load_->pieces) {
      const int64_t columns = load_->columns(piece.part, piece.slot);
      const int64_t row = std::max<int64_t>({1, row_bytes(piece.form, columns).values, columns * 4});
      const int64_t step = std::max<int64_t>(1, bytes / row);
      for (int64_t first = 0; first < piece.rows; first += step)
        list.push_back({&piece, first, std::min(step, piece.rows - first)});
    }
    return list;
  }

  // Conversion is one thread's work for each of a few chunks; the backend, which may have only one call at a time on a
  // weight, has threads of its own.
  void put_all(const std::vector<Chunk> &list, int64_t at_once) {
    std::vector<Converted> converted(std::min(static_cast<size_t>(at_once), list.size()));
    for (size_t start = 0; start < list.size(); start += converted.size()) {
      if (cancelled() || std::atomic_ref(const_cast<int32_t &>(*stop_)).load(std::memory_order_relaxed) != 0) {
        throw Error(MOE_ABORTED, "signal", "no abort", "an abort while a weight was loading");
      }
      const size_t count = std::min(converted.size(), list.size() - start);
      numerics::parallel_for(static_cast<int64_t>(count), [&](int64_t i) {
        convert(list[start + static_cast<size_t>(i)], converted[static_cast<size_t>(i)]);
      });
      for (size_t i = 0; i < count; ++i) {
        const auto &[piece, first, rows] = list[start + i];
        check([&](moe_error *error) {
          return device_->backend.weight_put(weight_->handle, piece->part, piece->slot, piece->row + first, rows,
                                             &converted[i].plain, error);
        });
      }
    }
  }

  void convert(const Chunk &chunk, Converted &to) const {
    const auto &[piece, first, rows] = chunk;
    const int64_t columns = load_->columns(piece->part, piece->slot);
    const moe_part &target = load_->spec.parts[piece->part];
    const moe_part form = target.kind == MOE_PART_BIAS ? float_part(MOE_F32) : target;
    const RowBytes row = row_bytes(piece->form, columns);
    const auto at = [first = first](const HostBytes &from, int64_t each) {
      return each > 0 ? from.data() + first * each : nullptr;
    };
    const void *index = at(piece->index, row.index);
    if (target.kind == MOE_PART_ROWS) {  // indices of rows may lie anywhere in a mapped file
      to.index.resize(static_cast<size_t>(rows));
      std::memcpy(to.index.data(), index, to.index.size() * sizeof(int32_t));
      index = to.index.data();
    }
    const moe_plain source{at(piece->values, row.values), at(piece->scale, row.scale), at(piece->offset, row.offset),
                           at(piece->outer, row.outer), index};
    to.plain = convert_rows(piece->form, source, form, to.storage, rows, columns, piece->row + first);
  }

  DevicePointer device_;
  std::unique_ptr<WeightLoad> load_;
  const int32_t *stop_;
  WeightPointer weight_;
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
