// Names of the error codes: the same words as lib/errors.ts.
#pragma once
#include <cstdint>
#include <string_view>

namespace moe {

// "INVALID_ARGUMENT", …; a code that is not in the table reads "INTERNAL".
std::string_view code_name(int32_t code);

}  // namespace moe
