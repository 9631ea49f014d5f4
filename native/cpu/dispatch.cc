#include "dispatch.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "moe/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace moe::cpu {
namespace {

enum Feature : uint32_t {
  avx2 = 1u << 0,
  fma = 1u << 1,
  f16c = 1u << 2,
  avx512f = 1u << 3,
  avx512bw = 1u << 4,
  avx512dq = 1u << 5,
  avx512vl = 1u << 6,
  avx512vnni = 1u << 7,
  avxvnni = 1u << 8,
  dotprod = 1u << 9,
  i8mm = 1u << 10,
  amx = 1u << 11,
  avx512vbmi = 1u << 12,
  avx512bf16 = 1u << 13,
  fast_bf16 = 1u << 14,  // faster than f32
};

// In order of preference.
constexpr uint32_t avx2_set = avx2 | fma | f16c;
constexpr uint32_t avx512_set = avx2_set | avx512f | avx512bw | avx512dq | avx512vl | avx512vnni;
constexpr uint32_t avx512vbmi_set = avx512_set | avx512vbmi;
constexpr uint32_t avx512bf16_set = avx512vbmi_set | avx512bf16;
const std::array instruction_sets{
#if defined(__x86_64__)
    // Only linear differs from avx512, here and in the next two.
    InstructionSet{"amx", avx512bf16_set | amx, &avx512::kernels, &amx::linear_kernels, &amx::probes},
    InstructionSet{"avx512bf16", avx512bf16_set, &avx512::kernels, &avx512bf16::linear_kernels, &avx512bf16::probes,
                   fast_bf16},
    // The same without products of bf16.
    InstructionSet{"avx512vbmi", avx512vbmi_set, &avx512::kernels, &avx512bf16::exact_kernels, &avx512::probes},
    InstructionSet{"avx512", avx512_set, &avx512::kernels, &avx512::linear_kernels, &avx512::probes},
    // Only products of bytes differ from avx2: those of linear.
    InstructionSet{"avx2vnni", avx2_set | avxvnni, &avx2::kernels, &avx2vnni::linear_kernels, &avx2vnni::probes},
    InstructionSet{"avx2", avx2_set, &avx2::kernels, &avx2::linear_kernels, &avx2::probes},
#elif defined(__aarch64__)
    InstructionSet{"neon-i8mm", dotprod | i8mm, &neon_i8mm::kernels, &neon_i8mm::linear_kernels, &neon_i8mm::probes},
    InstructionSet{"neon", dotprod, &neon::kernels, &neon::linear_kernels, &neon::probes},
#endif
    InstructionSet{"plain", 0, &plain::kernels, &plain::linear_kernels, &plain::probes},
#if defined(__x86_64__)
    // amx with its tiles in memory: for tests, so behind the one that every machine has.
    InstructionSet{"amx-twin", avx512bf16_set, &avx512::kernels, &amx_twin::linear_kernels, &avx512bf16::probes},
#endif
};

#if defined(__x86_64__)
// Asks the system for the tile registers, which it gives a process, with all threads, on request.
bool permit_tiles() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// What the processor has and the system saves: XCR0 bits 1, 2 for the 256-bit registers, 5, 6, 7 for masks and 512-bit
// registers, 17 and 18 for tiles.
uint32_t detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  // Intel's units do half as many operations a second in pairs of bf16 as in f32 (measured on Emerald Rapids).
  const bool intel = __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return 0;
  const bool has_fma = c & (1u << 12), has_f16c = c & (1u << 29);
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x06u) != 0x06u) return 0;
  uint32_t found = (has_fma ? fma : 0u) | (has_f16c ? f16c : 0u);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  if (b & (1u << 5)) found |= avx2;
  unsigned more = 0, unused_b = 0, unused_c = 0, unused_d = 0;
  if (__get_cpuid_count(7, 1, &more, &unused_b, &unused_c, &unused_d) && more & (1u << 4)) found |= avxvnni;
  if ((low & 0xe0u) != 0xe0u) return found;
  if (b & (1u << 16)) found |= avx512f;
  if (b & (1u << 17)) found |= avx512dq;
  if (b & (1u << 30)) found |= avx512bw;
  if (b & (1u << 31)) found |= avx512vl;
  if (c & (1u << 11)) found |= avx512vnni;
  if (c & (1u << 1)) found |= avx512vbmi;
  if (more & (1u << 5)) found |= avx512bf16 | (intel ? 0u : fast_bf16);
  // The registers, and their products of bf16 and of bytes.
  const bool has_tiles = d & (1u << 24) && d & (1u << 22) && d & (1u << 25);
  if (has_tiles && (low & 0x60000u) == 0x60000u && permit_tiles()) found |= amx;
  return found;
}
#elif defined(__aarch64__)
uint32_t detect() {
  const bool has_dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP, has_i8mm = getauxval(AT_HWCAP2) & HWCAP2_I8MM;
  return (has_dotprod ? dotprod : 0u) | (has_i8mm ? i8mm : 0u);
}
#else
uint32_t detect() { return 0; }
#endif

bool has(uint32_t needed) {
  static const uint32_t features = detect();
  return (needed & features) == needed;
}

}  // namespace

std::string available_instruction_sets(std::string_view separator) {
  std::string names;
  for (const InstructionSet &set : instruction_sets) {
    if (!has(set.needed)) continue;
    if (!names.empty()) names += separator;
    names += set.name;
  }
  return names;
}

const InstructionSet &choose_instruction_set(std::string_view name) {
  std::string_view argument = "isa";
  if (name.empty() || name == "auto") {
    const char *const forced = std::getenv("NODE_MOE_ISA");
    name = forced ? forced : "";
    argument = "NODE_MOE_ISA";
  }
  for (const InstructionSet &set : instruction_sets) {
    const bool any = name.empty() || name == "auto";
    if (has(set.needed) && (any ? has(set.wanted) : name == set.name)) return set;
  }
  throw Error(MOE_INVALID_ARGUMENT, argument, available_instruction_sets(", "), name);
}

std::string processor_name() {
#if defined(__x86_64__)
  unsigned words[12] = {};
  unsigned most = 0, b = 0, c = 0, d = 0;
  __get_cpuid(0x80000000u, &most, &b, &c, &d);
  if (most < 0x80000004u) return "x86-64";
  for (unsigned i = 0; i < 3; ++i) {
    __get_cpuid(0x80000002u + i, words + i * 4, words + i * 4 + 1, words + i * 4 + 2, words + i * 4 + 3);
  }
  char text[sizeof words + 1] = {};
  std::memcpy(text, words, sizeof words);
  std::string name;
  for (const char *p = text; *p; ++p) {
    const bool printable = *p > ' ' && *p < 127 && *p != '"' && *p != '\\';
    if (printable) name += *p;
    if (*p == ' ' && !name.empty() && name.back() != ' ') name += ' ';
  }
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name;
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

}  // namespace moe::cpu
