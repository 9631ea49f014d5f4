// An order of the inputs under which n:m pruning loses less.
#pragma once
#include <cstdint>

namespace moe::numerics {

struct PermutationTarget {
  int32_t *permutation;  // [columns]: new column j is old column permutation[j]
  double *kept;          // [2]: Σ of the n largest |w| of each run of m columns and each row, before and after
};

// Swaps inputs of w [rows, columns] between runs of m while that raises what is kept; columns is a multiple of m, n < m.
// Then `attempts` times: some random swaps from the best order so far, and swaps again. Deterministic. INVALID_ARGUMENT
// for what is not finite or out of range. The same aim as the permutation search of Pool and Yu, "Channel permutations
// for N:M sparsity", 2021.
void search_permutation(const float *w, int64_t rows, int64_t columns, int64_t n, int64_t m, int64_t attempts,
                        const PermutationTarget &to);

}  // namespace moe::numerics
