// Counts what kernels ask of memory and of the tensor cores, where counting is on: global bytes, the 32-byte sectors that
// each warp's request touches, conflicts of shared-memory banks, matrix products.
//
// A request is one instruction of one warp: accesses are gathered by the line that makes them and by how often the lane
// has come there, until all lanes of the warp have.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace moe::simt::profile {

struct Counts {
  int64_t launches = 0;
  int64_t read_bytes = 0, written_bytes = 0;  // asked for by lanes; the same address in several lanes of a request once
  int64_t sectors = 0, ideal_sectors = 0;     // touched, and the fewest that hold as many bytes
  int64_t shared_requests = 0, shared_conflicts = 0;  // conflicts: passes beyond the fewest possible
  int64_t matrix_products = 0;                        // mma and wgmma instructions a warp
};

// Counts from now on, from zero.
void start();
void stop();
bool counting();
// JSON object: kernel name → counts.
std::string report();

// While alive, counts go to this kernel.
class Launch {
 public:
  explicit Launch(const char *name);
  ~Launch();
  Launch(const Launch &) = delete;
  Launch &operator=(const Launch &) = delete;

 private:
  std::string name_;
};

// One lane's access; `site` names the instruction.
void global_access(const void *site_file, unsigned site_line, const void *address, size_t bytes, bool write);
void shared_access(const void *site_file, unsigned site_line, const void *address, size_t bytes);
// The addresses of a whole warp's request at once (ldmatrix): `count` rows of 16 bytes.
void shared_rows(const void *const *rows, size_t count);
void matrix_product();

}  // namespace moe::simt::profile
