// Which instance of a tile kernel an operation needs.
#pragma once
#include <type_traits>

#include "linear/arguments.h"

namespace moe::cuda {

// Calls `use` with the form and store of the segments as integral constants; false where there is no kernel for them.
template <typename Use>
bool for_tile_form(const LinearArguments &a, const Use &use) {
  const RowForm form = a.segment[0].rows.form;
  const int32_t store = a.segment[0].weight.store;
  for (int s = 1; s < a.segments; ++s)
    if (a.segment[s].rows.form != form || a.segment[s].weight.store != store) return false;
  const auto is = [&](auto one_form, auto one_store) {
    if (form != one_form.value || store != one_store.value) return false;
    use(one_form, one_store);
    return true;
  };
  constexpr std::integral_constant<RowForm, RowForm::bf16> bf16;
  constexpr std::integral_constant<RowForm, RowForm::f16> f16;
  constexpr std::integral_constant<RowForm, RowForm::int8> int8;
  constexpr std::integral_constant<int, MOE_I4> i4_codes;
  constexpr std::integral_constant<int, MOE_I8> i8_codes;
  constexpr std::integral_constant<int, MOE_BF16> bf16_values;
  constexpr std::integral_constant<int, MOE_F16> f16_values;
  constexpr std::integral_constant<int, MOE_F32> f32_values;
  return is(bf16, i4_codes) || is(bf16, i8_codes) || is(bf16, bf16_values) || is(bf16, f16_values) ||
         is(bf16, f32_values) || is(f16, i4_codes) || is(f16, i8_codes) || is(f16, f16_values) || is(int8, i4_codes) ||
         is(int8, i8_codes);
}

}  // namespace moe::cuda
