// One token's choice, by a warp: lane l holds the candidates l, l + 32, …
//
// What is compared is f32 scores to the bit, and that asks for exponentials in double. They are seldom needed: where the
// choice is the score alone, its order is that of the logits; with a bias, or where runs of experts are ranked, scores in f32
// nearly always tell. Only where two that matter are so close that this may be wrong is the token's choice made again from
// scores in double.
#pragma once
#include "route/arguments.h"
#include "route/place.h"
#include "route/score.h"

namespace moe::cuda {

// A float as a number that compares alike; 0 is below all and stands for a candidate that is not there. No NaN comes in.
__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // −0 is 0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}
inline constexpr uint32_t key_of_lowest = 0x007fffffu;  // −infinity

// The candidates of a lane: `n` in registers, or any number in memory (n = 0), each lane's own words.
template <int n>
struct Candidates {
  uint32_t word[n];
  __device__ __forceinline__ static constexpr int count(int32_t) { return n; }
  __device__ __forceinline__ uint32_t &operator[](int i) { return word[i]; }
};
template <>
struct Candidates<0> {
  uint32_t *row;
  __device__ __forceinline__ static int count(int32_t experts) { return (experts + 31) / 32; }
  __device__ __forceinline__ uint32_t &operator[](int i) const { return row[32 * i + lane_of_thread()]; }
};

// One token's logits, in memory.
struct StoredLogits {
  const void *data;
  int32_t dtype, score, experts;
  int64_t first = 0;

  __device__ __forceinline__ void go_to(int64_t token) { first = token * experts; }
  __device__ __forceinline__ float operator[](int32_t expert) const {
    return clean_logit(score, load_float(dtype, data, first + expert));
  }
};
// Those that the block itself has summed: all tokens', [T, E].
struct SummedLogits {
  SharedArray<float> sums;
  int32_t score, experts;
  int first = 0;

  __device__ __forceinline__ void go_to(int64_t token) { first = static_cast<int>(token) * experts; }
  __device__ __forceinline__ float operator[](int32_t expert) const {
    return clean_logit(score, ptx::load_shared(&sums[first + expert]));
  }
};

// Reads the logits into the candidates, as bits. The divisor is summed in double, as operations.h asks: gates come from it.
template <int n, typename Logits>
__device__ __forceinline__ Scoring read_logits(const RouteArguments &a, const Logits &logits,
                                               Candidates<n> &candidates) {
  const int count = candidates.count(logits.experts), lane = lane_of_thread();
  float highest = -3e38f;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int expert = 32 * i + lane;
    const float clean = expert < logits.experts ? logits[expert] : -3e38f;
    candidates[i] = __float_as_uint(clean);
    highest = fmaxf(highest, clean);
  }
  Scoring scoring{logits.score, value_of(__reduce_max_sync(whole_warp, key_of(highest))), 1};
  if (logits.score == MOE_SOFTMAX || logits.score == MOE_RELU_NORM) {
    const bool squares = logits.score == MOE_RELU_NORM;
    double sum = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (32 * i + lane >= logits.experts) continue;
      const double clean = static_cast<double>(__uint_as_float(candidates[i]));
      sum += squares ? clean * clean : exp(clean - static_cast<double>(scoring.highest));
    }
    sum = warp_reduce(sum, Add());
    scoring.divisor =
        squares ? sqrt(sum / static_cast<double>(logits.experts) + static_cast<double>(a.route.epsilon)) : sum;
  }
  return scoring;
}

// What the keys of candidates are made of.
enum class Basis { logits, approximate_scores, scores };

struct Ranking {
  Scoring scoring;
  Basis basis;
  bool biased;

  __device__ __forceinline__ bool keeps_logits(const Chosen &chosen) const {
    return chosen.staged && basis == Basis::logits;
  }
  // An approximate choice is this close to the choice itself, twice.
  __device__ __forceinline__ float tolerance(float choice) const {
    return 0x1p-18f * (fabsf(choice) + (biased ? 1.0f : 0.0f));
  }
  // The order of two may be another one by their scores.
  __device__ __forceinline__ bool uncertain(float higher, float lower) const {
    if (basis == Basis::approximate_scores) return !(higher - lower > tolerance(higher));
    return basis == Basis::logits && scoring.may_tie(higher, lower);
  }
  __device__ __forceinline__ bool uncertain(float choice) const {
    return basis == Basis::logits && scoring.may_vanish(choice);
  }
};

// From bits of logits to keys of choices.
template <int n>
__device__ __forceinline__ void rank_candidates(const RouteArguments &a, const void *bias, const Ranking &ranking,
                                                Candidates<n> &candidates) {
  const int count = candidates.count(a.route.experts), lane = lane_of_thread();
  const int32_t kind = a.route.score;
  // Softmax and sigmoid are 0 only where may_vanish says so.
  const bool above_zero = a.route.choice == MOE_CHOICE_NON_ZERO &&
                          (ranking.basis == Basis::scores || (kind != MOE_SOFTMAX && kind != MOE_SIGMOID));
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int expert = 32 * i + lane;
    uint32_t key = 0;
    if (expert < a.route.experts) {
      const float clean = __uint_as_float(candidates[i]);
      const float score = ranking.basis == Basis::logits               ? clean
                          : ranking.basis == Basis::approximate_scores ? ranking.scoring.approximate(clean)
                                                                       : ranking.scoring(clean);
      const float choice = bias ? score + load_float(a.bias.dtype, bias, expert) : score;
      if (!above_zero || score > 0) key = choice != choice ? key_of_lowest : key_of(choice);
    }
    candidates[i] = key;
  }
}

// Excludes all but the best runs of experts, of which there are at most 32: lane g ranks run g. False where others may be
// the best by their scores.
template <int n>
__device__ __forceinline__ bool limit_runs(const moe_route &route, const Ranking &ranking, Candidates<n> &candidates) {
  const int count = candidates.count(route.experts), lane = lane_of_thread();
  const int width = route.experts / route.expert_groups;
  uint32_t own = 0;
  for (int run = 0; run < route.expert_groups; ++run) {
    uint32_t first = 0, second = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int place = 32 * i + lane - run * width;
      if (place < 0 || place >= width) continue;
      const uint32_t key = candidates[i];
      second = max(second, min(first, key));
      first = max(first, key);
    }
    const uint32_t best = __reduce_max_sync(whole_warp, first);
    uint32_t worth = best;
    if (ranking.biased && width > 1) {
      const int holder = __ffs(static_cast<int>(__ballot_sync(whole_warp, first == best))) - 1;
      const uint32_t next = __reduce_max_sync(whole_warp, lane == holder ? second : first);
      const float sum = value_of(best) + value_of(next);
      worth = sum != sum ? key_of_lowest : key_of(sum);
    }
    if (lane == run) own = worth;
  }
  uint32_t kept = 0, last = 0;
  for (int i = 0; i < route.kept_groups; ++i) {
    last = __reduce_max_sync(whole_warp, own);
    const int run = __ffs(static_cast<int>(__ballot_sync(whole_warp, own == last))) - 1;
    kept |= 1u << run;
    if (lane == run) own = 0;
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int expert = 32 * i + lane;
    if (expert < route.experts && (kept >> (expert / width) & 1u) == 0) candidates[i] = 0;
  }
  if (ranking.basis == Basis::scores) return true;
  const uint32_t left_out = __reduce_max_sync(whole_warp, own);
  // A sum of two is twice as far off as one.
  const float tolerance = 4 * ranking.tolerance(value_of(last));
  return left_out == 0 || value_of(last) - value_of(left_out) > tolerance;
}

// Sets the top_k best candidates, equal ones in order of index; −1 where there are no more. Lane j mod 32 sets choice j.
// False where others may be the best by their scores. Where logits are ranked a staged gate is set to its logit meanwhile,
// so that nobody reads that again.
template <int n>
__device__ __forceinline__ bool take_best(const moe_route &route, const Ranking &ranking, Candidates<n> &candidates,
                                          const Chosen &chosen, int64_t token) {
  const int count = candidates.count(route.experts), lane = lane_of_thread();
  bool certain = true;
  int32_t own = -1, taken = -1;
  uint32_t previous = 0, own_key = 0;
  for (int j = 0; j < route.top_k; ++j) {
    uint32_t key = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) key = max(key, candidates[i]);
    const uint32_t best = __reduce_max_sync(whole_warp, key);
    taken = -1;
    if (lane == (j & 31)) own_key = best;
    if (best != 0) {
      uint32_t expert = UINT32_MAX;
#pragma unroll
      for (int i = 0; i < count; ++i)
        expert = min(expert, candidates[i] == best ? static_cast<uint32_t>(32 * i + lane) : UINT32_MAX);
      taken = static_cast<int32_t>(__reduce_min_sync(whole_warp, expert));
#pragma unroll
      for (int i = 0; i < count; ++i)
        if (32 * i + lane == taken) candidates[i] = 0;
      if ((previous != 0 && ranking.uncertain(value_of(previous), value_of(best))) || ranking.uncertain(value_of(best)))
        certain = false;
      previous = best;
    }
    if (lane == (j & 31)) own = taken;
    if ((j & 31) == 31 || j + 1 == route.top_k) {
      const int first = j & ~31;
      if (first + lane < route.top_k) {
        chosen.set_id(token, first + lane, own);
        if (ranking.keeps_logits(chosen)) chosen.set_gate(token, first + lane, value_of(own_key));
      }
    }
  }
  if (ranking.basis == Basis::scores || previous == 0) return true;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (candidates[i] != 0 && ranking.uncertain(value_of(previous), value_of(candidates[i]))) certain = false;
  }
  return __all_sync(whole_warp, certain) != 0;
}

// Chooses for a token; the ids are set, and what ranked them is returned for the gates.
template <int n, typename Logits>
__device__ __forceinline__ Ranking choose(const RouteArguments &a, const Frame *frame, const Logits &logits,
                                          Candidates<n> &candidates, const Chosen &chosen, int64_t token) {
  const void *const bias = at<void>(frame, a.bias);
  const bool runs = a.route.expert_groups > 1, plain = bias == nullptr && !runs;
  const bool costly = a.route.score == MOE_SOFTMAX || a.route.score == MOE_SIGMOID;
  Basis basis = plain                                             ? Basis::logits
                : costly && a.route.choice != MOE_CHOICE_NON_ZERO ? Basis::approximate_scores
                                                                  : Basis::scores;
  for (;;) {
    const Ranking ranking{read_logits(a, logits, candidates), basis, bias != nullptr};
    rank_candidates(a, bias, ranking, candidates);
    const bool certain = !runs || limit_runs(a.route, ranking, candidates);
    if ((take_best(a.route, ranking, candidates, chosen, token) && certain) || basis == Basis::scores) return ranking;
    basis = Basis::scores;
  }
}

}  // namespace moe::cuda
