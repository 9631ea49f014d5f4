// Scratch of every operation but linear: layout.h draws the parts.
#include <algorithm>

#include "moe/checked.h"
#include "operations/layout.h"

namespace moe::cpu {
namespace {

constexpr int64_t word = 4;

// Hands out consecutive regions, each on a cache line of its own.
struct Regions {
  int64_t end = 0;
  int64_t take(int64_t count, int64_t bytes_each = word) {
    const int64_t start = end;
    end = checked_add(end, align_up(checked_multiply(count, bytes_each, "scratch")), "scratch");
    return start;
  }
};

}  // namespace

int64_t rotate_scratch(const Context &c) {
  return checked_multiply(c.input[0].rows, 2 * c.input[2].size() * word, "scratch");
}

AttentionScratch attention_scratch(const Context &c) {
  const moe_attention &a = c.attribute<moe_attention>();
  AttentionScratch s{};
  Regions common, own;
  s.padded = ceil_divide(c.input[0].width / a.heads, 16) * 16;
  const int64_t kept = s.padded + attention_tail;
  s.scores = own.take(attention_rows * attention_keys);
  s.chunk = own.take(checked_multiply(attention_rows, kept, "scratch"));
  s.whole = own.take(attention_rows * kept);
  s.queries = own.take(attention_rows * s.padded);
  s.keys = own.take(attention_keys * s.padded);
  s.values = own.take(attention_keys * s.padded);
  s.steps = own.take(c.input[7].dtype == MOE_I8 ? 2 * attention_rows * attention_keys : 0);
  s.stride = own.end;
  s.blocks = common.take(c.input[0].rows + 1, sizeof(AttentionBlock));
  s.zeros = common.take(c.input[7].dim[2]);
  const int64_t keys = checked_multiply(c.input[6].size(), c.input[7].dim[1], "scratch");
  s.partial_count = std::min<int64_t>(c.input[0].rows, attention_cut_tokens) *
                    std::min<int64_t>(ceil_divide(keys, attention_chunk), attention_chunks);
  s.partials = common.take(checked_multiply(s.partial_count, checked_multiply(a.heads, kept, "scratch"), "scratch"));
  s.threads = common.take(c.threads, s.stride);
  s.total = common.end;
  return s;
}

RouteScratch route_scratch(const Context &c) {
  const moe_route &a = c.attribute<moe_route>();
  const int64_t tokens = c.input[0] ? c.input[0].rows : c.input[3].rows;
  const int64_t choices = checked_multiply(tokens, a.top_k, "scratch");
  RouteScratch s{};
  Regions regions;
  s.exponentials = regions.take(int64_t{c.threads} * a.experts, 8);
  const bool by_experts = a.choice == MOE_CHOICE_EXPERT && !c.input[3];
  s.scores = regions.take(checked_multiply(by_experts ? tokens : c.threads, a.experts, "scratch"));
  s.choices = regions.take(c.threads * (int64_t{a.experts} + a.expert_groups));
  s.candidates = regions.take(by_experts ? checked_multiply(c.threads, tokens, "scratch") : 0, sizeof(Candidate));
  s.last_taken = regions.take(by_experts ? a.experts : 0, sizeof(Candidate));
  s.ids = regions.take(choices);
  s.gates = regions.take(choices);
  s.rank = regions.take(a.experts);
  s.counts = regions.take(int64_t{std::max(a.experts, a.slots)} + 1);
  s.total = regions.end;
  return s;
}

int64_t combine_scratch(const Context &c) { return c.input[6] ? c.input[1].size() : 0; }

int64_t convolve_scratch(const Context &c) {
  return checked_multiply(c.threads, 2 * convolve_channels * c.input[1].width * word, "scratch");
}

int64_t accumulate_scratch(const Context &c) {
  switch (c.attribute<moe_accumulate>().statistic) {
    case MOE_NORM_SUM:
      return checked_multiply(c.input[0].rows, 8, "scratch");
    case MOE_GRAM:
      return checked_multiply(c.threads, (2 * gram_rows + gram_tile) * gram_tile * word, "scratch");
    default:
      return 0;
  }
}

int64_t operation_scratch(int32_t op, const Context &largest) {
  switch (op) {
    case MOE_ROTATE:
      return rotate_scratch(largest);
    case MOE_ATTENTION:
      return attention_scratch(largest).total;
    case MOE_ROUTE:
      return route_scratch(largest).total;
    case MOE_COMBINE:
      return combine_scratch(largest);
    case MOE_CONVOLVE:
      return convolve_scratch(largest);
    case MOE_ACCUMULATE:
      return accumulate_scratch(largest);
    default:
      return 0;
  }
}

}  // namespace moe::cpu
