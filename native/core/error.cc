#include "core/error.h"

#include "moe/backend.h"

namespace moe {

std::string_view code_name(int32_t code) {
  switch (code) {
    case MOE_OK:
      return "";
    case MOE_INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case MOE_DISPOSED:
      return "DISPOSED";
    case MOE_SHAPE_MISMATCH:
      return "SHAPE_MISMATCH";
    case MOE_DTYPE_MISMATCH:
      return "DTYPE_MISMATCH";
    case MOE_UNSUPPORTED:
      return "UNSUPPORTED";
    case MOE_OUT_OF_MEMORY:
      return "OUT_OF_MEMORY";
    case MOE_DEVICE_UNAVAILABLE:
      return "DEVICE_UNAVAILABLE";
    case MOE_DEVICE_LOST:
      return "DEVICE_LOST";
    case MOE_FILE_UNREADABLE:
      return "FILE_UNREADABLE";
    case MOE_ABORTED:
      return "ABORTED";
    default:
      return "INTERNAL";
  }
}

}  // namespace moe
