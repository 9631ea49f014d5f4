#include "numerics/kernels.h"

#include <cstdlib>
#include <string_view>

namespace moe::numerics {
namespace {

const Kernels &choose() {
  const char *const named = std::getenv("NODE_MOE_ISA");
  const std::string_view forced = named ? named : "";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (__builtin_cpu_supports("avx512f") && forced != "avx2" && forced != "plain") return avx512::kernels;
  if (has_avx2 && forced != "plain") return avx2::kernels;
#elif defined(__aarch64__)
  if (forced != "plain") return neon::kernels;
#endif
  return plain::kernels;
}

}  // namespace

const Kernels &kernels() {
  static const Kernels &chosen = choose();
  return chosen;
}

}  // namespace moe::numerics
