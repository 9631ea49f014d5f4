/* The one C ABI that every device stands behind.
 *
 * The core assembles and plans a graph; a backend compiles it into a program and runs it. Plain structs, no C++, no
 * exceptions. A backend is found by `moe_backend_entry` (a shared library `moe_<name>.so` beside the addon) or is
 * linked in (CMakeLists.txt, MOE_BACKENDS); the core and the addon name no backend.
 *
 * Rules that hold for every function
 *   result     MOE_OK, or a code with the same code and the words in `*error`. Nothing is printed, nothing aborts.
 *   threads    Any thread may call any function; calls on one object (a queue, a weight in building) must not overlap.
 *   blocking   Only `wait`, `open`, `compile`, `weight_*` and `limits` may block; `write`, `read` and `run` may compute
 *              on the caller (a CPU) or only enqueue (a GPU): the caller must treat both alike.
 *   lifetime   Whoever created an object calls `release` once. `release` may come while tickets that use the object are
 *              in flight; the backend keeps it until they are done. Host memory given to `write`, `read` and `run` must
 *              live until the ticket is done; every other pointer is only read during the call.
 *   order      Tickets of one queue are done in the order they were given; queues are not ordered among themselves.
 */
#ifndef MOE_BACKEND_H
#define MOE_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_ABI 2

/* Codes come in groups with gaps; docs/errors.md says what to do about each. native/core/error.cc holds the names. */
enum moe_code {
  MOE_OK = 0,
  /* the caller's mistake */
  MOE_INVALID_ARGUMENT = 10,
  MOE_DISPOSED = 11,
  MOE_SHAPE_MISMATCH = 12,
  MOE_DTYPE_MISMATCH = 13,
  MOE_UNSUPPORTED = 14, /* legal, but not on this device; the text says what is missing */
  /* the machine's limits */
  MOE_OUT_OF_MEMORY = 30,
  MOE_DEVICE_UNAVAILABLE = 31,
  MOE_DEVICE_LOST = 32,
  MOE_FILE_UNREADABLE = 33,
  /* the caller's wish */
  MOE_ABORTED = 50,
  /* a defect of ours */
  MOE_INTERNAL = 70
};

typedef struct {
  int32_t code;
  char argument[60];  /* the argument's name as the user wrote it, or "" */
  char expected[224]; /* what would have been right, with values */
  char received[224]; /* what came, with values */
} moe_error;

enum moe_dtype {
  MOE_F32 = 0,
  MOE_F16 = 1,
  MOE_BF16 = 2,
  MOE_F64 = 3, /* statistics only */
  MOE_I32 = 4,
  MOE_I8 = 5,
  MOE_U8 = 6, /* opaque bytes */
  MOE_I4 = 7  /* two's complement nibbles, two to a byte, even index low; weights only */
};

typedef struct moe_device moe_device;
typedef struct moe_queue moe_queue;
typedef struct moe_buffer moe_buffer;
typedef struct moe_weight moe_weight;
typedef struct moe_program moe_program;
typedef uint64_t moe_ticket;

/* ---- types and graphs ------------------------------------------------------------------------------------------- */

#define MOE_MAX_RANK 4
#define MOE_MAX_INPUTS 12
#define MOE_MAX_OUTPUTS 6

/* factor × size[symbol]; symbol < 0: fixed, the dimension is `factor`. Only dimension 0 may carry a symbol. */
typedef struct {
  int64_t factor;
  int32_t symbol;
} moe_dim;

/* Dense, row-major, dimension 0 outermost. */
typedef struct {
  int32_t dtype, rank;
  moe_dim dim[MOE_MAX_RANK];
} moe_type;

enum moe_role {
  MOE_ROLE_INPUT = 0,    /* bound at each run, only read */
  MOE_ROLE_STATE = 1,    /* bound at each run, read and written; the caller owns it */
  MOE_ROLE_OUTPUT = 2,   /* bound at each run, only written */
  MOE_ROLE_CONSTANT = 3, /* a buffer known at compile: norm weights, tables, small indices */
  MOE_ROLE_WEIGHT = 4,   /* a packed bank */
  MOE_ROLE_INNER = 5     /* lives in the arena between two nodes */
};

typedef struct {
  moe_type type;
  int32_t role;
  int32_t binding;      /* index into moe_run.bindings for input, state and output; else -1 */
  int64_t arena_offset; /* bytes, multiple of 64, for inner; else -1 */
  moe_weight *weight;
  moe_buffer *constant;
} moe_value;

/* Operations and their attributes: operations.h. */
typedef struct {
  int32_t op;
  int32_t input[MOE_MAX_INPUTS];   /* value index, or -1 where an optional input is absent */
  int32_t output[MOE_MAX_OUTPUTS]; /* value index, or -1 where nobody reads the output: it need not be computed */
  const void *attributes;
  size_t attribute_bytes;
  int64_t scratch_offset; /* bytes into the arena, multiple of 64; set by the planner from `scratch` */
} moe_node;

/* Nodes are in an order in which they can run. max_sizes[symbol] bounds sizes[symbol] at every run. */
typedef struct {
  const moe_value *values;
  const moe_node *nodes;
  int32_t value_count, node_count, symbol_count, binding_count;
  const int64_t *max_sizes;
} moe_graph;

/* ---- weights: docs/weights.md draws the plain form --------------------------------------------------------------- */

enum moe_part_kind {
  MOE_PART_BASE = 0,       /* [out, in] a slot */
  MOE_PART_BIAS = 1,       /* f32 [out] a slot */
  MOE_PART_FACTOR_IN = 2,  /* A [rank, in] a slot, float; always with FACTOR_OUT */
  MOE_PART_FACTOR_OUT = 3, /* B [out, rank] a slot, float; `size` and `ragged` as FACTOR_IN */
  MOE_PART_ROWS = 4,       /* whole rows [count, in] a slot, each with the output row that it adds to */
  MOE_PART_SPARSE = 5      /* n kept of every m inputs: [out, ceil(in / m)·n] a slot, each with its place among the m */
};

/* How a part is kept. A matrix part is BASE, FACTOR_IN, FACTOR_OUT, ROWS or SPARSE; each kind comes at most once, in
 * any order, and at least one matrix part is there. Quantized (store I8 or I4; BASE, ROWS, SPARSE):
 *   w[n, k] = scale[n, k / group] · code[n, k] − offset[n, k / group], where `outer` is absent;
 *   w[n, k] = outer[n] · scale[n, k / group] · code[n, k], where it is given (dual-grained): scales are then integers
 *             from 1, and |scale · code| ≤ 127, so that a row is one 8-bit matrix row under one scale.
 * Groups count dense inputs, also where only some of them are kept (SPARSE). */
typedef struct {
  int32_t kind;
  int32_t store;         /* F32, F16, BF16, I8, I4 */
  int32_t scale;         /* dtype of scales: F16 or F32, I8 under an outer scale; -1 for float stores */
  int32_t offset;        /* dtype of offsets: as scale; -1 where symmetric, as under an outer scale and in SPARSE */
  int32_t group;         /* inputs that share a scale: 32, 64, 128; 0: the whole row (channel) */
  int32_t outer;         /* dtype of the one outer scale a row: F16 or F32; -1: none */
  int32_t n, m;          /* SPARSE: 1 ≤ n < m ≤ 256, m divides a group that is not 0; else 0 */
  int32_t size;          /* FACTOR_IN, FACTOR_OUT: the largest rank of a slot; ROWS: the largest count; ≥ 1; else 0 */
  const int32_t *ragged; /* as `size`: [slots], 0 to size for each slot; NULL: every slot has `size` */
} moe_part;

enum moe_activation_mode { MOE_EXACT = 0, MOE_INT8 = 1, MOE_AUTO = 2 };

/* A bank: `slots` matrices of one form. gated: each slot's rows are `out/2` gate rows, then `out/2` up rows, and the
 * linear that uses it has a gated activation. in_of/out_of give each slot's own widths (≤ in, ≤ out) where they differ,
 * else NULL.
 * base_of (delta form): slots share base matrices. The base part has base_slots slots, slot s adds its own other parts
 * to base slot base_of[s], and all slots have the same widths (in_of, out_of NULL). NULL: each slot has its own base,
 * base_slots is 0. */
typedef struct {
  int64_t in, out;
  int32_t slots, gated, part_count;
  const int64_t *in_of, *out_of;
  const moe_part *parts;
  int32_t base_slots;
  const int32_t *base_of; /* [slots], 0 to base_slots − 1 */
} moe_weight_spec;

/* Host rows in the plain form, tightly packed (an I4 row is ceil(columns / 2) bytes). The rows of a slot are its outputs,
 * but the rank for FACTOR_IN and the count for ROWS; a slot of rank 0 has no row in either factor.
 *   values        [rows, columns]: columns = in of the slot, 1 for a BIAS, the slot's rank for FACTOR_OUT,
 *                 ceil(in / m)·n for SPARSE
 *   scale, offset [rows, groups], groups = ceil(in / group), 1 where group is 0
 *   outer         [rows]
 *   index         ROWS: i32 [rows], the output row of each, ascending within the slot. SPARSE: u8 [rows, columns], place
 *                 0 to m − 1 among its m inputs, ascending within them; a place past `in` has value 0. */
typedef struct {
  const void *values, *scale, *offset, *outer, *index;
} moe_plain;

/* ---- runs ------------------------------------------------------------------------------------------------------ */

typedef struct {
  moe_program *program;
  moe_buffer *arena;           /* at least the planned bytes; contents are lost */
  moe_buffer *const *bindings; /* [binding_count] */
  const int64_t *sizes;        /* [symbol_count], each ≤ its maximum; 0 is legal */
  const int32_t *cancel;       /* host word or NULL; non-zero: stop soon, the ticket ends with MOE_ABORTED */
  int64_t *profile;            /* host [node_count] nanoseconds a node, or NULL */
} moe_run;

typedef struct {
  int64_t held, peak, limit; /* bytes that this device object holds and held at most; limit 0: none */
} moe_memory;

typedef struct {
  double read_bytes_per_second;     /* best streaming read */
  double f32_operations_per_second; /* multiply and add count as two */
  double int8_operations_per_second;
  double bf16_operations_per_second; /* of matrix products; 0 where a device has no units for them */
} moe_limits;

enum moe_kind {
  MOE_KIND_DEVICE = 0,
  MOE_KIND_QUEUE = 1,
  MOE_KIND_BUFFER = 2,
  MOE_KIND_WEIGHT = 3,
  MOE_KIND_PROGRAM = 4
};

typedef struct {
  uint32_t abi, struct_bytes;
  const char *name; /* "cpu", "reference", "cuda" */

  /* How many devices there are. 0 comes with MOE_OK and the reason in *error (code MOE_DEVICE_UNAVAILABLE, expected:
   * what would have to be there, received: what was found). */
  int (*count)(int32_t *count, moe_error *error);
  /* options: lines of `key=value`; an unknown key or value is MOE_INVALID_ARGUMENT naming it. */
  int (*open)(int32_t index, const char *options, moe_device **device, moe_error *error);
  /* JSON object, zero-terminated, cut never: too small a buffer is MOE_INVALID_ARGUMENT. */
  int (*describe)(moe_device *device, char *json, size_t bytes, moe_error *error);
  int (*memory)(moe_device *device, moe_memory *memory, moe_error *error);
  /* Measures, about a second; fields that a device cannot measure are 0. */
  int (*limits)(moe_device *device, moe_limits *limits, moe_error *error);

  int (*queue)(moe_device *device, int32_t priority, moe_queue **queue, moe_error *error);
  int (*allocate)(moe_device *device, size_t bytes, moe_buffer **buffer,
                  moe_error *error);         /* contents undefined, 64-byte aligned */
  void *(*host_address)(moe_buffer *buffer); /* NULL where the host cannot reach it */
  int (*write)(moe_queue *queue, moe_buffer *to, size_t offset, const void *from, size_t bytes, moe_ticket *ticket,
               moe_error *error);
  int (*read)(moe_queue *queue, moe_buffer *from, size_t offset, void *to, size_t bytes, moe_ticket *ticket,
              moe_error *error);

  /* begin, then put every row of every part of every slot once in any order, then finish. bytes: what the packed bank
   * holds. What weight_spec.h checks is refused: kernels may rely on indices and codes. */
  int (*weight_begin)(moe_device *device, const moe_weight_spec *spec, moe_weight **weight, moe_error *error);
  int (*weight_put)(moe_weight *weight, int32_t part, int32_t slot, int64_t row, int64_t rows, const moe_plain *plain,
                    moe_error *error);
  int (*weight_finish)(moe_weight *weight, size_t *bytes, moe_error *error);

  /* Bytes of scratch a node needs at max_sizes, or MOE_UNSUPPORTED naming the node's operation and what is missing. */
  int (*scratch)(moe_device *device, const moe_graph *graph, int64_t *per_node, moe_error *error);
  /* The graph is copied; weights and constants in it must outlive the program (the core sees to that). */
  int (*compile)(moe_device *device, const moe_graph *graph, moe_program **program, moe_error *error);

  int (*run)(moe_queue *queue, const moe_run *run, moe_ticket *ticket,
             moe_error *error); /* the struct itself is copied */
  /* nanoseconds < 0: for ever; 0: poll. MOE_OK: the ticket and all before it are done. *done = 0 where time ran out.
   * The error of a failed ticket surfaces here, once. */
  int (*wait)(moe_queue *queue, moe_ticket ticket, int64_t nanoseconds, int32_t *done, moe_error *error);

  void (*release)(int32_t kind, void *object);
} moe_backend;

const moe_backend *moe_backend_entry(void);

#ifdef __cplusplus
}
#endif
#endif
