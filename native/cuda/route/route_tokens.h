// The whole of `route` in one launch, by one block or by all: choose, gates, drop, sort.
#pragma once
#include <type_traits>

#include "route/choose.h"
#include "route/exchange.h"
#include "route/place.h"
#include "route/take_tokens.h"

namespace moe::cuda {

// −1 where the expert's rows do not run.
__device__ __forceinline__ int32_t slot_of(const RouteArguments &a, const int32_t *group_of, int32_t expert) {
  const int32_t slot = ptx::load(group_of + expert);
  return slot >= 0 && slot < a.route.slots ? slot : -1;
}

// The bucket of each expert where there is a group_of: its slot, or its place among the experts sorted by slot.
struct ExpertMap {
  SharedArray<int> bucket, slot;  // [E] each; slot only where choices do not coalesce

  __device__ __forceinline__ void build(const RouteArguments &a, const int32_t *group_of) const {
    const int32_t experts = a.route.experts, threads = static_cast<int32_t>(blockDim.x);
    const bool by_slot = a.coalesces();
    for (int32_t e = static_cast<int32_t>(threadIdx.x); e < experts; e += threads)
      (by_slot ? bucket : slot)[e] = slot_of(a, group_of, e);
    __syncthreads();
    for (int32_t e = static_cast<int32_t>(threadIdx.x); !by_slot && e < experts; e += threads) {
      const int own = slot[e];
      int before = 0;
      for (int32_t other = 0; other < experts; ++other)
        before += slot[other] >= 0 && (slot[other] < own || (slot[other] == own && other < e));
      bucket[e] = own < 0 ? -1 : before;
    }
    __syncthreads();
  }
};

// Lane j mod 32 sets gate j. raw: the gate before renormalization.
template <typename Raw>
__device__ __forceinline__ void set_gates(const moe_route &route, const Chosen &chosen, int64_t token, const Raw &raw) {
  const int lane = lane_of_thread();
  float own = 0;
  double sum = 0;
  for (int32_t j = lane; j < route.top_k; j += 32) {
    own = raw(j);
    sum += static_cast<double>(own);
  }
  double divisor = 1;
  if (route.renormalize != 0) {
    sum = warp_reduce(sum, Add());
    divisor = sum != 0 ? sum : 1;
  }
  for (int32_t j = lane; j < route.top_k; j += 32) {
    const double gate = static_cast<double>(route.top_k > 32 ? raw(j) : own);
    chosen.set_gate(token, j, static_cast<float>(gate / divisor * static_cast<double>(route.scale)));
  }
}

// Ids and gates of the tokens of this warp.
template <int n, bool whole_grid, typename Logits>
__device__ __forceinline__ void choose_tokens(const Team<whole_grid> &team, const RouteArguments &a, Logits logits,
                                              int64_t tokens, TokenRange own, Candidates<n> &candidates,
                                              const Chosen &chosen) {
  const Frame *const frame = team.frame;
  const int32_t top_k = a.route.top_k, experts = a.route.experts;
  const int32_t *const given_ids = at<int32_t>(frame, a.given_ids);
  const void *const given_gates = at<void>(frame, a.given_gates);
  const auto *const keys = at<uint32_t>(frame, a.keys);
  if (a.experts_choose()) take_tokens(team, a, logits, tokens, own, candidates, chosen);
  for (int64_t t = own.begin; t < own.end; ++t) {
    Scoring scoring{};
    bool kept = false;  // the logit of each choice, in place of its gate
    logits.go_to(t);
    if (given_ids != nullptr) {
      for (int32_t j = lane_of_thread(); j < top_k; j += 32) {
        const int32_t id = ptx::load(given_ids + t * top_k + j);
        chosen.set_id(t, j, id >= 0 && id < experts ? id : -1);
      }
      if (a.scored()) scoring = read_logits(a, logits, candidates);
    } else if (!a.experts_choose()) {
      const Ranking ranking = choose(a, frame, logits, candidates, chosen, t);
      scoring = ranking.scoring;
      kept = ranking.keeps_logits(chosen);
    }
    set_gates(a.route, chosen, t, [&](int32_t j) {
      const int32_t id = chosen.id(t, j);
      if (id < 0) return 0.0f;
      if (given_gates != nullptr) return load_float(a.given_gates.dtype, given_gates, t * top_k + j);
      return keys != nullptr ? value_of(ptx::load(keys + id * a.largest_tokens + t))
                             : scoring(kept ? chosen.gate(t, j) : logits[id]);
    });
  }
}

// Of each expert's choices all after the first `capacity` become none.
template <bool whole_grid>
__device__ __forceinline__ void drop_choices(const Team<whole_grid> &team, const RouteArguments &a, const Tally &tally,
                                             TokenRange own, const Chosen &chosen) {
  const auto expert = [](int32_t id) { return id; };
  const Choices<decltype(expert)> choices{chosen, a.chosen(), false, expert};
  clear_tally(tally, a.route.experts);
  walk(choices, tally, a.route.experts, own, false, [](int64_t, int32_t, int, int, bool, const Alike &) {});
  sum_block(team, a, tally, a.route.experts, false);
  if constexpr (whole_grid) sum_grid(team, a, tally, a.route.experts, [] {}, [] {});
  walk(choices, tally, a.route.experts, own, false, [&](int64_t token, int32_t j, int, int place, bool, const Alike &) {
    if (place < a.route.capacity) return;
    chosen.set_id(token, j, -1);
    chosen.set_gate(token, j, 0.0f);
  });
  // Warps count in rows of another length now.
  __syncthreads();
}

template <int n, bool whole_grid, typename Logits>
__device__ __forceinline__ void route_tokens(const Frame *frame, const RouteArguments &a, const Logits &logits,
                                             SharedCutter &shared) {
  const Team<whole_grid> team{frame};
  const int64_t tokens = rows(frame, a.chosen() ? a.given_ids : a.logits);
  const int32_t top_k = a.route.top_k, slots = a.route.slots;
  const int buckets = a.buckets(), most_buckets = a.drops() ? max(buckets, a.route.experts) : buckets;
  const int32_t *const group_of = at<int32_t>(frame, a.group_of);

  Tally tally;
  tally.next = shared.take<int>(team.block_warps() * most_buckets);
  tally.start = shared.take<int>(most_buckets + 1);
  tally.partial = shared.take<int>(32);
  if constexpr (whole_grid) tally.base = shared.take<int>(most_buckets + 1);
  tally.stride = most_buckets;
  ExpertMap map;
  if (group_of != nullptr) {
    map.bucket = shared.take<int>(a.route.experts);
    if (!a.coalesces()) map.slot = shared.take<int>(a.route.experts);
    map.build(a, group_of);
  }

  const TokenRange own = team.tokens_of_warp(tokens);
  Chosen chosen{
      at<int32_t>(frame, a.kept_ids), at<float>(frame, a.kept_gates), {}, {}, own.begin, top_k, a.staged_tokens > 0};
  SharedArray<int> places;  // of the choices of this warp among the rows of this block
  if (chosen.staged) {
    const int each = a.staged_tokens * top_k, first = warp_of_thread() * each;
    const SharedArray<int32_t> ids = shared.take<int32_t>(team.block_warps() * each);
    const SharedArray<float> gates = shared.take<float>(team.block_warps() * each);
    chosen.staged_ids = {ids.data() + first, each};
    chosen.staged_gates = {gates.data() + first, each};
    if constexpr (whole_grid) places = {shared.take<int>(team.block_warps() * each).data() + first, each};
  }
  Candidates<n> candidates;
  if constexpr (n == 0)
    candidates.row =
        at<uint32_t>(frame, a.rows) + static_cast<int64_t>(team.warp()) * ((a.route.experts + 31) / 32 * 32);
  choose_tokens(team, a, logits, tokens, own, candidates, chosen);
  if (a.drops()) drop_choices(team, a, tally, own, chosen);

  const auto bucket_of = [&](int32_t id) { return id < 0 || group_of == nullptr ? id : map.bucket[id]; };
  const bool coalesces = a.coalesces();
  const Choices<decltype(bucket_of)> choices{chosen, a.chosen() || coalesces, coalesces, bucket_of};
  clear_tally(tally, buckets);
  walk(choices, tally, buckets, own, false, [](int64_t, int32_t, int, int, bool, const Alike &) {});
  sum_block(team, a, tally, buckets, !whole_grid || chosen.staged);
  if constexpr (whole_grid) {
    if (!chosen.staged) {
      sum_grid(team, a, tally, buckets, [] {}, [] {});
      for (int b = static_cast<int>(threadIdx.x); b < buckets; b += static_cast<int>(blockDim.x))
        tally.start[b] += tally.base[b];
      __syncthreads();
    }
  }

  const std::conditional_t<whole_grid, Exchange, SortedRows> sorted(team, a, tokens, buckets, shared);
  // Addresses are looked up where they are needed, since registers are few.
  const auto store = [&](const Place &place, int64_t index, auto value) {
    if (place.present()) ptx::store(at<decltype(value)>(frame, place) + index, value);
  };
  walk(choices, tally, buckets, own, coalesces,
       [&](int64_t token, int32_t j, int bucket, int place, bool leads, const Alike &alike) {
         const int64_t choice = token * top_k + j;
         if (chosen.staged) {
           store(a.ids, choice, chosen.id(token, j));
           store(a.gates, choice, chosen.gate(token, j));
         }
         if (whole_grid && chosen.staged) {
           ptx::store_shared(&places[chosen.staged_index(token, j)], place);
         } else {
           store(a.row_of, choice, place);
         }
         if (place < 0 || (coalesces && !leads)) return;
         const float gate = coalesces ? static_cast<float>(alike.gate) : chosen.gate(token, j);
         if (chosen.staged) return sorted.set(place, bucket, token, gate);
         store(a.token_of, place, static_cast<int32_t>(token));
         store(a.gate_of, place, gate);
       });
  if constexpr (whole_grid) {
    if (chosen.staged) {
      sorted.give(tally.start);
      sum_grid(team, a, tally, buckets, [&] { sorted.take(); }, [&] { sorted.look_up(tally.stride); });
      sorted.store(tally.base, at<int32_t>(frame, a.token_of), at<float>(frame, a.gate_of));
      const int count = static_cast<int>(own.end - own.begin) * top_k;
      for (int i = lane_of_thread(); i < count; i += 32) {
        const int place = ptx::load_shared(&places[i]);
        const int bucket = place < 0 ? 0 : bucket_of(ptx::load_shared(&chosen.staged_ids[i]));
        store(a.row_of, own.begin * top_k + i, place < 0 ? -1 : tally.base[bucket] + tally.start[bucket] + place);
      }
    }
  } else if (chosen.staged) {
    sorted.store(tally.start[buckets], at<int32_t>(frame, a.token_of), at<float>(frame, a.gate_of));
  }

  int32_t *const offsets = at<int32_t>(frame, a.offsets);
  if (offsets == nullptr || team.block() > 0) return;
  const SharedArray<int> &begin = whole_grid ? tally.base : tally.start;
  for (int32_t s = static_cast<int32_t>(threadIdx.x); s <= slots; s += static_cast<int32_t>(blockDim.x)) {
    int first = 0;
    if (group_of == nullptr || coalesces) {
      first = begin[s];
    } else {
      for (int32_t e = 0; e < a.route.experts; ++e) {
        const int bucket = map.bucket[e];
        if (bucket >= 0 && map.slot[e] < s) first += begin[bucket + 1] - begin[bucket];
      }
    }
    ptx::store(offsets + s, first);
  }
}

// Of logits in memory.
template <int n, bool whole_grid>
__device__ __forceinline__ void route_tokens(const Frame *frame, const RouteArguments &a) {
  SharedCutter shared;
  const StoredLogits logits{at<void>(frame, a.logits), a.logits.dtype, a.route.score, a.route.experts};
  route_tokens<n, whole_grid>(frame, a, logits, shared);
}

}  // namespace moe::cuda
