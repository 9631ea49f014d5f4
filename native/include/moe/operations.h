/* The operations: what each computes, its operands in order, and its attributes.
 *
 * Notation: T tokens, R = capacity of rows (T·K) of a routing, K choices a token, E experts, S slots of a bank, H, W, N
 * widths. "float" operands are F32, F16 or BF16; all arithmetic is at least f32. `?` marks an optional operand. An
 * index that comes from data (id, position, page, row) and is out of range reads as zeros and writes nothing; it never
 * faults. native/core/operations.cc holds the table that checks operands and names attributes for JavaScript.
 */
#ifndef MOE_OPERATIONS_H
#define MOE_OPERATIONS_H

#include <stdint.h>

enum moe_op {
  MOE_EMBED = 0,
  MOE_NORM = 1,
  MOE_LINEAR = 2,
  MOE_ROTATE = 3,
  MOE_ATTENTION = 4,
  MOE_MAP = 5,
  MOE_ROUTE = 6,
  MOE_COMBINE = 7,
  MOE_CONVOLVE = 8,
  MOE_TAKE = 9,
  MOE_SCORE = 10,
  MOE_ACCUMULATE = 11,
  MOE_OP_COUNT = 12
};

/* y[t] = scale · table[ids[t]].
 * in: ids i32 [T], table constant float [V, H]; out: y float [T, H] */
typedef struct {
  float scale;
  int32_t dtype; /* of y */
} moe_embed;

enum moe_norm_kind { MOE_RMS = 0, MOE_LAYER = 1 };
/* s = x + residual; each run of `width` elements of s: rms: s / sqrt(mean(s²) + epsilon) · weight; layer: mean removed
 * first, + bias.
 * in: x float [T, W], weight? constant float [width], bias? constant float [width], residual? float [T, W]
 * out: y [T, W], sum [T, W] (s; only with residual). width divides W; 0 means W. */
typedef struct {
  int32_t kind, width;
  float epsilon;
} moe_norm;

enum moe_activation {
  MOE_NONE = 0,
  MOE_RELU = 1,
  MOE_GELU = 2, /* erf form */
  MOE_GELU_TANH = 3,
  MOE_SILU = 4,
  MOE_SWIGLU = 5, /* silu(gate) · up; 5.. need a gated bank */
  MOE_GEGLU = 6   /* gelu_tanh(gate) · up */
};

/* Dense (no offsets): y[t] = activation(z_0(x[t])) + residual[t], one slot.
 * Grouped: row r of slot s, offsets[s] ≤ r < offsets[s+1], y[r] = activation(z_s(x[token_of[r]])); without token_of x[r]
 * itself is read. Rows ≥ offsets[S] are left as they are. Columns past a slot's own width are written as 0.
 * z_s is the sum of the bank's parts (backend.h) of slot s, each where it is there; a gated activation acts on it:
 *   z_s(x) = Base·x + B·(A·x) + S·x + bias + rows, where kept row i adds row_i·x to output index[i], and Base is that of
 *   base_of[s] in the delta form. A·x stays at least f32.
 * in: x float [T or R, in], weight bank, token_of? i32 [R], offsets? i32 [S + 1], residual? float as y (dense only)
 * out: y float [T or R, out; out/2 where gated]
 *
 * mode MOE_INT8, banks with an integer BASE, ROWS or SPARSE: for each such part x is quantized once a row, in blocks of
 * the part's group along `in` (the whole row where it is 0, and under an outer scale): step = max|x| / 127 in f32, code
 * = round-half-even(x / step) in f32, within ±127, 0 where step is 0; a block with a NaN or an infinity gives NaN, never
 * an ordinary number (step NaN, codes 0). Inner sums are exact:
 *   Σ_blocks step · (scale · Σ code_w·code_x − offset · Σ code_x);   under an outer scale
 *   step · outer · Σ scale·code_w·code_x.
 * A, B and float parts see x itself.
 * mode MOE_AUTO: what the device does best, which may be either; parts stored in BF16 may see x, and B in BF16 may
 * see A·x, rounded to bf16 (half even), with subnormal numbers as 0, and sums in f32. */
typedef struct {
  int32_t activation, mode;
  int32_t dtype; /* of y */
} moe_linear;

/* Rotary positions on the first 2·F elements of each head: half split pairs i with i + F, interleaved pairs 2i with 2i
 * + 1; angle = f32(positions[t]) · frequencies[i]; both cosine and sine are multiplied by `scale`. The rest passes
 * through.
 * in: x float [T, heads·head_dim], positions i32 [T], frequencies constant f32 [F]; out: y as x */
typedef struct {
  int32_t heads, interleaved;
  float scale;
} moe_rotate;

/* Ragged batch over a paged cache. First the keys and values of all tokens are stored: token t of sequence s =
 * sequence[t] at p = positions[t] goes to page pages[s·P + p / page_size], place p mod page_size, P = size of pages /
 * sequences. Then
 * y[t, h] = Σ_j softmax_j(scale · q[t, h]·k[j, h / (heads / kv_heads)]) v[j] over j < lengths[s], with j ≤ p where
 * causal, p − j < window where window > 0; scores pass through cap·tanh(score / cap) where soft_cap > 0. No visible
 * key: zeros. A visible key on a page out of range is zeros: it counts with score 0 and value 0.
 * in: q float [T, heads·D], k float [T, kv_heads·D], v float [T, kv_heads·D], positions i32 [T], sequence i32 [T],
 *     lengths i32 [sequences] (keys in the cache after this run), pages i32 [sequences·P],
 *     k_cache state float [pages, page_size, kv_heads·D] or i8 [pages, page_size, kv_heads·(D + 4)], v_cache as k_cache
 * A place of an i8 cache holds the codes of all heads, then an f32 step a head (4 bytes, as the machine orders them). A
 * stored head is quantized: step = max|x| / 127 in f32, code = round-half-even(x / step) in f32, within ±127, 0 where
 * step is 0; with a NaN or an infinity step is NaN and the codes are 0. It is read as step · code.
 * out: y float [T, heads·D] */
typedef struct {
  int32_t heads, kv_heads, causal, window;
  float scale, soft_cap;
} moe_attention;

enum moe_function {
  MOE_FUNCTION_ADD = 0,      /* alpha·a + beta·b */
  MOE_FUNCTION_MULTIPLY = 1, /* a · b */
  MOE_FUNCTION_SCALE = 2,    /* alpha·a + beta */
  MOE_FUNCTION_CLAMP = 3,    /* min(max(a, alpha), beta) */
  MOE_FUNCTION_RELU = 4,
  MOE_FUNCTION_GELU = 5,
  MOE_FUNCTION_GELU_TANH = 6,
  MOE_FUNCTION_SILU = 7,
  MOE_FUNCTION_SIGMOID = 8,
  MOE_FUNCTION_TANH = 9
};
/* Elementwise; NaN passes through every function. in: a float [T, W], b? float [T, W] or [T, 1] (spread over the row);
 * out: y as a */
typedef struct {
  int32_t function;
  float alpha, beta;
} moe_map;

enum moe_score_kind {
  MOE_SOFTMAX = 0, /* over all E */
  MOE_SIGMOID = 1,
  MOE_IDENTITY = 2,  /* the logit */
  MOE_RELU_NORM = 3, /* r / sqrt(mean over E of r² + epsilon), r = max(logit, 0); 0 where r is 0 */
  MOE_RELU_SCORE = 4 /* max(logit, 0) */
};
enum moe_choice_kind {
  MOE_CHOICE_TOP_K = 0,
  MOE_CHOICE_NON_ZERO = 1, /* a ReLU router: however many experts a token has, up to top_k */
  MOE_CHOICE_EXPERT = 2    /* experts choose tokens */
};
/* Chooses up to top_k experts a token and lays out the rows of the bank that will run.
 *   logits NaN count as the lowest; all are clamped to ±3e38 first, so ids are always in range and distinct.
 *   score  = as moe_score_kind says, in double, rounded to f32: all below compares f32 values, so ties are alike
 *            everywhere
 *   choice = TOP_K: the top_k largest of score + bias in f32, where NaN counts as −infinity. Where expert_groups > 1
 *            the experts are first cut into expert_groups equal runs, a run counts the f32 sum of its best two
 *            choices if `bias` is given, else its best; the best kept_groups runs stay.
 *            NON_ZERO: as TOP_K among the experts with score > 0; no groups.
 *            Both: ties go to the lower index; column j of ids holds the j-th best choice, −1 past the last one.
 *            EXPERT: each expert takes the `capacity` ≥ 1 tokens (all, where T is less) with the largest score for it,
 *            ties to the lower token; no bias, no groups. A row of ids holds the experts that took the token, in
 *            ascending order, −1 past the last one; of more than top_k the first top_k stay.
 *   gate   = score of the chosen (never the bias), 0 where id is −1; renormalize: divided by their sum (if it is not
 *            0); times scale.
 *   drop   = where capacity > 0 and choice is not EXPERT: of each expert's choices, in order of (token, j) over the T
 *            tokens of the run, the first `capacity` stay; the others become id −1, gate 0, in place. Experts are
 *            those of ids, not slots. Gates are renormalized before, so what is left of a token may sum to less.
 * Where `ids` is given nothing is chosen (choice is TOP_K): gates come from `gates`, or from the scores of `logits` at
 * ids; renormalize, scale and drop then act as above. An id outside [0, E) is stored as −1, gate 0, and means none. An
 * id whose group_of is outside [0, S) keeps id and gate but has no row (row_of −1).
 *   slot   = group_of[id], or id itself. Rows lie in order of (slot, id, token), stable; where `coalesce` is set and
 *            group_of is given, two choices of one token in one slot are one row, its gate the sum (in order of j), in
 *            order of (slot, token).
 * in: logits? float [T, E], bias? constant float [E], group_of? constant i32 [E], ids? i32 [T, K], gates? float [T, K]
 * out: ids i32 [T, K], gates f32 [T, K], row_of i32 [T, K] (row of each choice, −1 none), token_of i32 [R], gate_of f32
 *      [R], offsets i32 [S + 1] (rows of slot s: offsets[s] … offsets[s+1]). Rows ≥ offsets[S] are unspecified. */
typedef struct {
  int32_t score, top_k, renormalize, coalesce;
  int32_t experts, slots;             /* E; S = experts where there is no group_of */
  int32_t expert_groups, kept_groups; /* 1, 1: no group limit */
  float scale;
  int32_t choice, capacity; /* capacity 0: no limit */
  float epsilon;            /* of MOE_RELU_NORM */
} moe_route;

/* y[t] = residual[t] + Σ gate_of[r] · rows[r] over the distinct rows r = row_of[t, j] ≥ 0, in order of their first j,
 *        + sigmoid(shared_gate[t]) · shared[t] (factor 1 without shared_gate).
 * in: rows float [R, H], row_of i32 [T, K], gate_of f32 [R], shared? float [T, H], shared_gate? float [T, 1],
 *     residual? float [T, H], onto? i32 [T, K]
 * With onto (the row_of of a second routing of the same choices) the same terms go to that routing's rows:
 * y[q] = Σ gate_of[r] · rows[r] over the distinct r = row_of[t, j] (first j of each) with onto[t, j] = q; y is [R, H];
 * rows of y that no choice names are left as they are; shared, shared_gate and residual are absent.
 * out: y float [T or R, H] */
typedef struct {
  int32_t dtype; /* of y */
} moe_combine;

/* Short causal convolution a channel: y[t, c] = activation(Σ_i w[c, i] · x[t − (width − 1) + i, c] + bias[c]), where
 * earlier x of the same sequence come from `state` (its last width − 1 inputs, oldest first), which is updated.
 * Position 0 zeroes the state first. A sequence out of range gives zeros. Tokens of a sequence are consecutive and in
 * order.
 * in: x float [T, C], weight constant float [C, width], bias? constant float [C], sequence i32 [T], positions i32 [T]
 *     (0: history is zeros), state f32 [sequences, (width − 1)·C]; out: y as x */
typedef struct {
  int32_t activation; /* MOE_NONE or MOE_SILU */
} moe_convolve;

/* y[i] = x[index[i]]; out of range: zeros. in: x float or i32 [T, W], index i32 [M]; out: y as x [M, W] */
typedef struct {
  int32_t unused;
} moe_take;

/* Over logits [T, V]: log-probability of given ids, and the top_k most likely (ties to the lower id). Logits are read
 * as route reads them: NaN counts as the lowest, all are clamped to ±3e38.
 * in: logits float [T, V], ids? i32 [T] (−1: 0 is written)
 * out: log_probability f32 [T] (with ids), top_ids i32 [T, top_k], top_log_probabilities f32 [T, top_k] (with top_k >
 *      0) */
typedef struct {
  int32_t top_k;
} moe_score;

enum moe_statistic {
  MOE_COUNT = 0,    /* state[id] += 1 for each id in ids i32 [T, K] within the state's size */
  MOE_SUM = 1,      /* Σ_r g^p · x[r]: state [W], grouped [S, W] */
  MOE_NORM_SUM = 2, /* Σ_r g^p · ‖x[r]‖₂: state [1], grouped [S] */
  MOE_GRAM = 3      /* Σ_r g^p · a[r]ᵀ b[r], b = a where absent: state [Wa, Wb], grouped [S, Wa, Wb] */
};
/* Adds a statistic of this run into a state, sums in f32 or better within a run, the state in f64.
 * g = gate_of[r] where given, else 1; p = gate_power. Grouped where offsets is given: rows of slot s go to part s; else
 * all T rows.
 * in: a float [R or T, Wa] (COUNT: i32 [T, K]), b? float [R or T, Wb], offsets? i32 [S + 1], gate_of? f32 [R], state
 *     f64
 * out: none */
typedef struct {
  int32_t statistic, gate_power;
} moe_accumulate;

#endif
