// The tile registers of AMX (palette 1: eight of up to 16 rows × 64 bytes), and a twin of them in memory for machines that
// have none: the same members, the same bits. A unit that defines MOE_TILE_TWIN has the twin. Whoever uses the registers has
// the system's permission (dispatch.cc asks for it).
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

// One object a thread at a time: it stands for the thread's registers.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles &) = delete;
  Tiles &operator=(const Tiles &) = delete;
  ~Tiles() { __asm__ volatile("tilerelease"); }

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
  template <int t>
  [[gnu::always_inline]] void store(void *to, int64_t stride) const {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(t) : "memory");
  }
  // c[m][n] += Σ_k Σ_{j<4} signed byte a[m][4k + j] · unsigned byte b[k][4n + j], in int32 (tdpbsud).
  template <int c, int a, int b>
  [[gnu::always_inline]] void multiply() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }
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
  void store(void *to, int64_t stride) const {
    require(shapes_.rows[t] > 0);
    for (int r = 0; r < shapes_.rows[t]; ++r)
      std::memcpy(static_cast<char *>(to) + r * stride, tiles_[t][r], shapes_.row_bytes[t]);
  }
  template <int c, int a, int b>
  void multiply() {
    const int rows = shapes_.rows[c], depth = shapes_.rows[b];
    require(rows > 0 && rows == shapes_.rows[a] && depth * 4 == shapes_.row_bytes[a] &&
            shapes_.row_bytes[c] == shapes_.row_bytes[b]);
    for (int m = 0; m < rows; ++m) {
      uint32_t sums[tile_depth / 4];  // all of a row: what lies outside the shape is 0
      std::memcpy(sums, tiles_[c][m], sizeof sums);
      for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < tile_depth / 4; ++n) {
          for (int j = 0; j < 4; ++j) {
            const int product = static_cast<int8_t>(tiles_[a][m][4 * k + j]) * tiles_[b][k][4 * n + j];
            sums[n] += static_cast<uint32_t>(product);
          }
        }
      }
      std::memcpy(tiles_[c][m], sums, sizeof sums);
    }
  }

 private:
  // Where the processor refuses the instruction.
  static void require(bool good) {
    if (!good) __builtin_trap();
  }

  TileShapes shapes_;
  alignas(64) uint8_t tiles_[8][tile_rows][tile_depth];
};

#endif

}  // namespace moe::cpu::MOE_ISA
