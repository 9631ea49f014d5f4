// The tile registers of AMX (palette 1: eight of up to 16 rows × 64 bytes), and a twin of them in memory for machines that
// have none: the same members, the same bits. A unit that defines MOE_TILE_TWIN has the twin. Whoever uses the registers has
// the system's permission (dispatch.cc asks for it).
//
// multiply, of signed bytes, is tdpbssd: c[m][n] += Σ_k Σ_{j<4} a[m][4k + j] · b[k][4n + j], in int32; multiply_unsigned, of
// unsigned bytes b, is tdpbsud.
//
// multiply_pairs, of bf16, is tdpbf16ps, as its operation stands in Intel's manual: two f32 sums for each m and n, each from 0
// and in order of k,
//   even += a[m][2k] · b[k][2n],   odd += a[m][2k + 1] · b[k][2n + 1]
// by fused multiply-adds, then c[m][n] += even + odd. All roundings are to nearest, ties to even; subnormal numbers count as
// 0, c's too, and subnormal results become 0. So it is not what vdpbf16ps gives: that adds the two products of a pair to one
// sum, one after the other. (Intel's guide to the intrinsics draws such a sum for the tiles as well. Only the twin's bits hang
// on it: no matrix is multiplied by both.)
//
// Own assembly, as GCC's intrinsics make a register's number part of a macro's text, and name too little of the memory that
// they read and write.
#pragma once
#include <cstdint>
#include <cstring>

#define MOE_TILES  // for what is only compiled where there are tiles

namespace moe::cpu::MOE_ISA {

inline constexpr int tile_rows = 16;   // of a tile, at most
inline constexpr int tile_depth = 64;  // bytes of a row, at most

// What ldtilecfg reads. Of registers that are not used everything is 0.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  [[gnu::always_inline]] void set(int tile, int64_t count, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(count);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileShapes) == 64);

#if !defined(MOE_TILE_TWIN)

// One object a thread at a time: it stands for the thread's registers. It leaves the shapes that it found: ggml sets its own
// once a thread, and where both work on one its next product would be an illegal instruction.
class Tiles {
 public:
  Tiles() { __asm__ volatile("sttilecfg %0" : "=m"(found_)); }
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;
  ~Tiles() {
    if (found_.palette != 0) {
      configure(found_);
    } else {
      __asm__ volatile("tilerelease");
    }
  }

  // Zeroes all registers.
  [[gnu::always_inline]] void configure(const TileShapes &shapes) { __asm__ volatile("ldtilecfg %0" : : "m"(shapes)); }
  template <int t>
  [[gnu::always_inline]] void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(t));
  }
  // Rows `stride` bytes apart.
  template <int t>
  [[gnu::always_inline]] void load(const void *from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(t) : "memory");
  }
  // The same, leaving the first-level cache to others.
  template <int t>
  [[gnu::always_inline]] void load_once(const void *from, int64_t stride) {
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(t) : "memory");
  }
  template <int t>
  [[gnu::always_inline]] void store(void *to, int64_t stride) const {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(t) : "memory");
  }
  template <int c, int a, int b>
  [[gnu::always_inline]] void multiply() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }
  template <int c, int a, int b>
  [[gnu::always_inline]] void multiply_unsigned() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }
  template <int c, int a, int b>
  [[gnu::always_inline]] void multiply_pairs() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }

 private:
  TileShapes found_;
};

#else

class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;

  void configure(const TileShapes &shapes) {
    shapes_ = shapes;
    std::memset(tiles_, 0, sizeof tiles_);
  }
  template <int t>
  void zero() {
    require(shapes_.rows[t] > 0);
    std::memset(tiles_[t], 0, sizeof tiles_[t]);
  }
  template <int t>
  void load(const void *from, int64_t stride) {
    zero<t>();
    for (int r = 0; r < shapes_.rows[t]; ++r)
      std::memcpy(tiles_[t][r], static_cast<const char *>(from) + r * stride, shapes_.row_bytes[t]);
  }
  template <int t>
  void load_once(const void *from, int64_t stride) {
    load<t>(from, stride);
  }
  template <int t>
  void store(void *to, int64_t stride) const {
    require(shapes_.rows[t] > 0);
    for (int r = 0; r < shapes_.rows[t]; ++r)
      std::memcpy(static_cast<char *>(to) + r * stride, tiles_[t][r], shapes_.row_bytes[t]);
  }
  template <int c, int a, int b>
  void multiply() {
    multiply_bytes<int8_t>(c, a, b);
  }
  template <int c, int a, int b>
  void multiply_unsigned() {
    multiply_bytes<uint8_t>(c, a, b);
  }
  template <int c, int a, int b>
  void multiply_pairs() {
    require_product(c, a, b);
    float w[tile_rows][2][lanes];
    for (int k = 0; k < shapes_.rows[b]; ++k) {
      for (int n = 0; n < lanes; ++n)
        for (int j = 0; j < 2; ++j) w[k][j][n] = bf16_at(tiles_[b][k], 2 * n + j);
    }
    for (int m = 0; m < shapes_.rows[c]; ++m) {
      float sums[lanes], even[lanes] = {}, odd[lanes] = {};
      for (int k = 0; k < shapes_.rows[b]; ++k) {
        const float first = bf16_at(tiles_[a][m], 2 * k), second = bf16_at(tiles_[a][m], 2 * k + 1);
        for (int n = 0; n < lanes; ++n) {
          even[n] = flush(__builtin_fmaf(first, w[k][0][n], even[n]));
          odd[n] = flush(__builtin_fmaf(second, w[k][1][n], odd[n]));
        }
      }
      std::memcpy(sums, tiles_[c][m], sizeof sums);
      for (int n = 0; n < lanes; ++n) sums[n] = flush(flush(sums[n]) + flush(even[n] + odd[n]));
      std::memcpy(tiles_[c][m], sums, sizeof sums);
    }
  }

 private:
  static constexpr int lanes = tile_depth / 4;

  // Where the processor refuses the instruction.
  static void require(bool good) {
    if (!good) __builtin_trap();
  }
  void require_product(int c, int a, int b) const {
    require(shapes_.rows[c] > 0 && shapes_.rows[c] == shapes_.rows[a] && shapes_.rows[b] * 4 == shapes_.row_bytes[a] &&
            shapes_.row_bytes[c] == shapes_.row_bytes[b]);
  }
  template <typename B>
  void multiply_bytes(int c, int a, int b) {
    require_product(c, a, b);
    for (int m = 0; m < shapes_.rows[c]; ++m) {
      uint32_t sums[lanes];  // all of a row: what lies outside the shape is 0
      std::memcpy(sums, tiles_[c][m], sizeof sums);
      for (int k = 0; k < shapes_.rows[b]; ++k) {
        for (int n = 0; n < lanes; ++n) {
          for (int j = 0; j < 4; ++j) {
            const int product = static_cast<int8_t>(tiles_[a][m][4 * k + j]) * static_cast<B>(tiles_[b][k][4 * n + j]);
            sums[n] += static_cast<uint32_t>(product);
          }
        }
      }
      std::memcpy(tiles_[c][m], sums, sizeof sums);
    }
  }
  static float flush(float value) {
    return __builtin_fabsf(value) < 0x1p-126f ? __builtin_copysignf(0.0f, value) : value;
  }
  static float bf16_at(const uint8_t *row, int index) {
    uint16_t half;
    std::memcpy(&half, row + index * 2, sizeof half);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return flush(value);
  }

  TileShapes shapes_;
  alignas(64) uint8_t tiles_[8][tile_rows][tile_depth];
};

#endif

}  // namespace moe::cpu::MOE_ISA
