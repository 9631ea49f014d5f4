// Experts choose tokens: a warp an expert finds the last token that it takes, bit by bit of the score's key.
#pragma once
#include "route/choose.h"
#include "route/team.h"

namespace moe::cuda {

// Of equal keys the lower tokens are taken first.
struct alignas(8) LastTaken {
  uint32_t key, token;
  __device__ __forceinline__ bool takes(uint32_t other, int64_t token_of_other) const {
    return other > key || (other == key && token_of_other <= static_cast<int64_t>(token));
  }
};

// keys: one a token. 1 ≤ wanted ≤ tokens.
__device__ __forceinline__ LastTaken find_last_taken(const uint32_t *keys, int64_t tokens, int64_t wanted) {
  const int lane = lane_of_thread();
  const auto count_from = [&](uint32_t key) {
    int64_t count = 0;
    for (int64_t first = 0; first < tokens; first += 32)
      count += __popc(__ballot_sync(whole_warp, first + lane < tokens && ptx::load(keys + first + lane) >= key));
    return count;
  };
  LastTaken last{0, 0};
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if (count_from(last.key | bit) >= wanted) last.key |= bit;
  }
  int64_t equals = wanted - (last.key == UINT32_MAX ? 0 : count_from(last.key + 1));
  for (int64_t first = 0; first < tokens; first += 32) {
    uint32_t same = __ballot_sync(whole_warp, first + lane < tokens && ptx::load(keys + first + lane) == last.key);
    for (; same != 0; same &= same - 1) {
      if (--equals == 0)
        last.token = static_cast<uint32_t>(first) + static_cast<uint32_t>(__ffs(static_cast<int>(same)) - 1);
    }
  }
  return last;
}

// Scores the tokens of this warp, finds what each expert takes, and sets the ids of this warp's tokens.
template <int n, bool whole_grid, typename Logits>
__device__ __forceinline__ void take_tokens(const Team<whole_grid> &team, const RouteArguments &a, Logits logits,
                                            int64_t tokens, TokenRange own, Candidates<n> &candidates,
                                            const Chosen &chosen) {
  const int lane = lane_of_thread();
  const int32_t experts = a.route.experts, top_k = a.route.top_k;
  auto *const keys = at<uint32_t>(team.frame, a.keys);
  auto *const last = at<LastTaken>(team.frame, a.last);
  for (int64_t t = own.begin; t < own.end; ++t) {
    logits.go_to(t);
    const Scoring scoring = read_logits(a, logits, candidates);
    const int count = candidates.count(experts);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (32 * i + lane < experts)
        ptx::store(keys + (32 * i + lane) * a.largest_tokens + t, key_of(scoring(__uint_as_float(candidates[i]))));
    }
  }
  team.meet();
  for (int32_t e = team.warp(); tokens > 0 && e < experts; e += team.warps()) {
    const LastTaken found =
        find_last_taken(keys + e * a.largest_tokens, tokens, min(tokens, static_cast<int64_t>(a.route.capacity)));
    if (lane == 0) ptx::store(last + e, found);
  }
  team.meet();
  for (int64_t t = own.begin; t < own.end; ++t) {
    int32_t count = 0;
    for (int32_t first = 0; first < experts && count < top_k; first += 32) {
      const int32_t e = first + lane;
      const bool takes = e < experts && ptx::load(last + e).takes(ptx::load(keys + e * a.largest_tokens + t), t);
      const uint32_t takers = __ballot_sync(whole_warp, takes);
      const int32_t place = count + __popc(takers & ((1u << lane) - 1));
      if (takes && place < top_k) chosen.set_id(t, place, e);
      count += __popc(takers);
    }
    for (int32_t j = count + lane; j < top_k; j += 32) chosen.set_id(t, j, -1);
  }
  __syncwarp();
}

}  // namespace moe::cuda
