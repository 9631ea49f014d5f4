// NativeWeight: a packed bank, and its loading: pieces stream from mapped files or copied arrays through conversion, a
// few chunks at once, and in order into the backend. States of a bank: loading (a promise), live, disposed.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "addon/cancel.h"
#include "addon/file.h"
#include "addon/resources.h"
#include "addon/wrapped.h"

namespace moe::addon {

class Weight final : public Wrapped<Weight>, public Child {
 public:
  static constexpr ClassId id = ClassId::weight;
  static constexpr const char *class_name = "NativeWeight";
  static std::vector<napi_property_descriptor> members();

  explicit Weight(WeightPointer resource);
  ~Weight() override { Weight::drop(); }
  void drop() noexcept override;
  const WeightPointer &alive(std::string_view argument) const;

 private:
  napi_value bytes(const Napi::CallbackInfo &info);
  napi_value dispose(const Napi::CallbackInfo &info);

  WeightPointer resource_;
  const int64_t bytes_;
};

// Some rows of one slot of one part, as the caller gave them.
struct WeightPiece {
  int32_t part = 0;  // index into WeightLoad::parts
  int32_t slot = 0;
  int64_t row = 0, rows = 0;
  moe_part form{};  // of the part's kind, but of BASE for a bias
  HostBytes values, scale, offset, outer, index;
};

// The arguments of loadWeight, checked: every row of every part of every slot once, every source of the exact size.
struct WeightLoad {
  moe_weight_spec spec{};  // points into the vectors below
  std::vector<int64_t> in_of, out_of;
  std::vector<int32_t> base_of, ranks, counts;
  std::vector<moe_part> parts;
  std::vector<WeightPiece> pieces;
  CancelPointer cancel;

  int64_t slot_in(int32_t slot) const { return in_of.empty() ? spec.in : in_of[static_cast<size_t>(slot)]; }
  int64_t slot_out(int32_t slot) const { return out_of.empty() ? spec.out : out_of[static_cast<size_t>(slot)]; }
  int32_t slots(int32_t part) const;  // matrices that a part has
  int64_t rows(int32_t part, int32_t slot) const;
  int64_t columns(int32_t part, int32_t slot) const;
};

// A plain form {store, scale, offset, group, outer} of kind BASE; may run JavaScript.
moe_part read_form(const Napi::Value &value, const std::string &argument);
// Reads and checks (spec, pieces, cancel?); runs JavaScript.
std::unique_ptr<WeightLoad> read_weight_load(const Napi::CallbackInfo &info);
Napi::Value start_weight_load(Napi::Env env, const DevicePointer &device, std::unique_ptr<WeightLoad> load);

}  // namespace moe::addon
