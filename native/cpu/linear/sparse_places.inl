// The places of n:m sparse values, and what a tile of them is unpacked to (sparse.inl).
#include "linear/kernels.h"

namespace moe::cpu::MOE_ISA {
namespace {

// Byte `j` of each lane, times 2^log.
template <int j, int log>
MOE_INLINE Ints byte_times(Ints lanes) {
  constexpr int right = 8 * j - log;
  const Ints mask = broadcast_ints(0xff << log);
  if constexpr (right >= 0) return bit_and(shift_right<right>(lanes), mask);
  return bit_and(shift_left<-right>(lanes), mask);
}

// Reads the places of four values of 32 outputs at a time: one to a byte.
class Places {
 public:
  MOE_INLINE Places(const Sparse &sparse, int64_t tile) : from_(sparse.places + tile * sparse.place_bytes) {
    bits_ = sparse.place_bits;
    log_ = bits_ == 2 ? 2 : bits_ == 4 ? 1 : 0;  // of the steps of four in a line
    const uint32_t one = bits_ == 8 ? 0xffu : (1u << bits_) - 1u;
    mask_ = broadcast_ints(static_cast<int32_t>(one * 0x01010101u));
  }
  MOE_INLINE Ints step(int64_t index, int v) const {
    const Ints lanes = load_ints(from_ + (index >> log_) * 128 + v * width * 4);
    return bit_and(shift_right(lanes, static_cast<int>(index & ((1 << log_) - 1)) * bits_), mask_);
  }
  // For the places of a later step.
  MOE_INLINE void ask(int64_t index) const {
    const std::byte *const later = from_ + (index >> log_) * 128 + prefetch_bytes;
    linear::prefetch(later);
    linear::prefetch(later + 64);
  }

 private:
  const std::byte *from_;
  int bits_, log_;
  Ints mask_;
};

// Elements of T that fill the thread's piece of widened weights.
template <typename T>
constexpr int64_t piece_of = int64_t{sizeof(float)} * linear::widened_inputs * tile_outputs / int64_t{sizeof(T)};

}  // namespace
}  // namespace moe::cpu::MOE_ISA
