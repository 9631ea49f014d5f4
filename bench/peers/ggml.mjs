// llama.cpp's kernels: its ggml libraries as the npm package node-llama-cpp ships them, called directly. The declarations below are
// those of ggml.h and ggml-backend.h; nothing is compiled. Weights lie in a buffer type of the CPU backend: its plain one, or one of
// the extra ones (repacked for the processor), as llama.cpp itself would choose.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import { checkDense, poolRows, repeatRows, rowPool } from './weights.mjs';

const platform = `linux-${process.arch}`;
const binaries = fileURLToPath(new URL(`node_modules/@node-llama-cpp/${platform}/bins/${platform}`, import.meta.url));
const library = (start) =>
  join(
    binaries,
    readdirSync(binaries).find((name) => name.startsWith(start)),
  );
const base = koffi.load(library('libggml-base.'));
const registry = koffi.load(library('libggml.'));

koffi.struct('ggml_init_params', { mem_size: 'size_t', mem_buffer: 'void *', no_alloc: 'bool' });
const of = (lib, text) => lib.func(text);
const g = {
  init: of(base, 'void *ggml_init(ggml_init_params params)'),
  free: of(base, 'void ggml_free(void *context)'),
  tensorOverhead: of(base, 'size_t ggml_tensor_overhead()'),
  graphOverhead: of(base, 'size_t ggml_graph_overhead()'),
  rowSize: of(base, 'size_t ggml_row_size(int type, int64_t columns)'),
  quantize: of(
    base,
    'size_t ggml_quantize_chunk(int type, float *from, void *to, int64_t start, int64_t rows, int64_t columns, void *importance)',
  ),
  tensor: of(base, 'void *ggml_new_tensor_3d(void *context, int type, int64_t a, int64_t b, int64_t c)'),
  product: of(base, 'void *ggml_mul_mat(void *context, void *a, void *b)'),
  productById: of(base, 'void *ggml_mul_mat_id(void *context, void *matrices, void *b, void *ids)'),
  swiglu: of(base, 'void *ggml_swiglu_split(void *context, void *gate, void *up)'),
  relu: of(base, 'void *ggml_relu(void *context, void *a)'),
  multiply: of(base, 'void *ggml_mul(void *context, void *a, void *b)'),
  add: of(base, 'void *ggml_add(void *context, void *a, void *b)'),
  view: of(
    base,
    'void *ggml_view_2d(void *context, void *a, int64_t columns, int64_t rows, size_t stride, size_t offset)',
  ),
  newGraph: of(base, 'void *ggml_new_graph(void *context)'),
  expand: of(base, 'void ggml_build_forward_expand(void *graph, void *tensor)'),
  log: of(base, 'void ggml_log_set(void *callback, void *data)'),
  poolParameters: of(base, 'void ggml_threadpool_params_init(void *params, int threads)'),
  loadAll: of(registry, 'void ggml_backend_load_all_from_path(const char *folder)'),
  device: of(registry, 'void *ggml_backend_dev_by_type(int type)'),
  openDevice: of(base, 'void *ggml_backend_dev_init(void *device, const char *params)'),
  registryOf: of(base, 'void *ggml_backend_dev_backend_reg(void *device)'),
  procedure: of(base, 'void *ggml_backend_reg_get_proc_address(void *registry, const char *name)'),
  plainBuffers: of(base, 'void *ggml_backend_dev_buffer_type(void *device)'),
  bufferName: of(base, 'const char *ggml_backend_buft_name(void *type)'),
  supports: of(base, 'bool ggml_backend_dev_supports_op(void *device, void *tensor)'),
  allocate: of(base, 'void *ggml_backend_alloc_ctx_tensors_from_buft(void *context, void *type)'),
  usage: of(base, 'void ggml_backend_buffer_set_usage(void *buffer, int usage)'),
  freeBuffer: of(base, 'void ggml_backend_buffer_free(void *buffer)'),
  write: of(base, 'void ggml_backend_tensor_set(void *tensor, const void *data, size_t offset, size_t bytes)'),
  read: of(base, 'void ggml_backend_tensor_get(void *tensor, void *data, size_t offset, size_t bytes)'),
  compute: of(base, 'int ggml_backend_graph_compute(void *backend, void *graph)'),
};

export const types = { f32: 0, f16: 1, q4_0: 2, q8_0: 8, q4_K: 12, i32: 26, bf16: 30 };
const cpuDevice = 0;
const weightUsage = 1;

/** The forms that stand beside a format of ours. */
export const formats = { f32: ['f32'], bf16: ['bf16', 'f16'], f16: ['f16'], int8: ['q8_0'], int4: ['q4_0', 'q4_K'] };

const procedures = {
  ggml_backend_set_n_threads: 'void set_threads(void *backend, int threads)',
  ggml_backend_dev_get_extra_bufts: 'void **extra_buffers(void *device)',
  ggml_threadpool_new: 'void *new_pool(void *params)',
  ggml_backend_cpu_set_threadpool: 'void set_pool(void *backend, void *pool)',
};
// Larger than ggml_threadpool_params, which ggml fills in.
const poolParameterBytes = 1024;

/** The one of the CPU libraries that ggml chose for this processor. */
function loadedCpuLibrary() {
  const [path] = /\S*libggml-cpu-\S+/.exec(readFileSync('/proc/self/maps', 'utf8'));
  return koffi.load(path);
}

export class Ggml {
  #device;
  #backend;
  /** The plain buffer type and the extra ones. */
  bufferTypes;
  /** Lets the threads sleep, which would else look for work for a while; the next call wakes them. */
  settle;

  constructor(threads) {
    const silent = koffi.pointer(koffi.proto('void silent(int level, const char *text, void *data)'));
    g.log(
      koffi.register(() => {}, silent),
      null,
    );
    g.loadAll(binaries);
    this.#device = g.device(cpuDevice);
    this.#backend = g.openDevice(this.#device, null);
    const own = (name) => koffi.decode(g.procedure(g.registryOf(this.#device), name), koffi.proto(procedures[name]));
    own('ggml_backend_set_n_threads')(this.#backend, threads);
    // Without a pool of its own ggml would start threads in every call.
    const parameters = new Uint8Array(poolParameterBytes);
    g.poolParameters(parameters, threads);
    const pool = own('ggml_threadpool_new')(parameters);
    own('ggml_backend_cpu_set_threadpool')(this.#backend, pool);
    const pause = loadedCpuLibrary().func('void ggml_threadpool_pause(void *pool)');
    this.settle = () => pause(pool);
    const list = own('ggml_backend_dev_get_extra_bufts')(this.#device);
    const types = [g.plainBuffers(this.#device)];
    for (let at = 0; list; at++) {
      const type = koffi.decode(list, at * 8, 'void *');
      if (!type) break;
      types.push(type);
    }
    this.bufferTypes = types.map((type) => ({ type, name: g.bufferName(type) }));
  }

  /** Tensors [c, b, a] whose memory is in `bufferType`; undefined where it cannot hold the operation that `use` makes of one. */
  weights(bufferType, format, shapes, use) {
    const context = g.init({ mem_size: g.tensorOverhead() * 32 + 4096, mem_buffer: null, no_alloc: true });
    const tensors = shapes.map((shape) => g.tensor(context, types[format], ...shape));
    const buffer = g.allocate(context, bufferType);
    const fits = buffer && tensors.every((tensor, at) => g.supports(this.#device, use(context, tensor, at)));
    const dispose = () => {
      if (buffer) g.freeBuffer(buffer);
      g.free(context);
    };
    if (!fits) {
      dispose();
      return undefined;
    }
    g.usage(buffer, weightUsage);
    return { tensors, dispose };
  }

  /** A graph whose values all have memory of their own. `build` returns its inputs and its result. */
  graph(build) {
    const context = g.init({
      mem_size: g.tensorOverhead() * 128 + g.graphOverhead() + 65536,
      mem_buffer: null,
      no_alloc: true,
    });
    const { result, ...inputs } = build(context);
    const graph = g.newGraph(context);
    g.expand(graph, result);
    const buffer = g.allocate(context, g.plainBuffers(this.#device));
    const run = () => {
      const status = g.compute(this.#backend, graph);
      if (status !== 0) throw new Error(`ggml: status ${status}`);
    };
    const dispose = () => {
      g.freeBuffer(buffer);
      g.free(context);
    };
    return { inputs, result, run, dispose };
  }
}

/** Of [rows, columns] in a format of ggml. */
export function matrixBytes(format, rows, columns) {
  return g.rowSize(types[format], columns) * rows;
}

/** f32 [rows, columns] in a format of ggml. */
export function quantizeMatrix(format, values, rows, columns) {
  if (format === 'f32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const bytes = new Uint8Array(matrixBytes(format, rows, columns));
  g.quantize(types[format], values, bytes, 0, rows, columns, null);
  return bytes;
}

/** The rows of a pool in a format of ggml, over and over. */
function quantized(format, pool, columns, rows) {
  return repeatRows(quantizeMatrix(format, pool, poolRows, columns), rows);
}

const random = (count) => Float32Array.from({ length: count }, () => Math.random() - 0.5);

/** One peer a buffer type that takes the form. */
export function dense(ggml, format, { columns, outputs, sets }) {
  return ggml.bufferTypes.flatMap(({ type, name }) => {
    const pool = rowPool(columns);
    const use = (context, tensor) => g.product(context, tensor, g.tensor(context, types.f32, columns, 1, 1));
    const copies = [];
    const held = [];
    const data = quantized(format, pool, columns, outputs);
    for (let set = 0; set < sets; set++) {
      const made = ggml.weights(type, format, [[columns, outputs, 1]], use);
      if (!made) return [];
      g.write(made.tensors[0], data, 0, data.length);
      copies.push(made.tensors[0]);
      held.push(made);
    }
    return [
      {
        name: 'llama.cpp',
        format: `${format}, ${name}`,
        prepare(tokens) {
          const x = random(tokens * columns);
          const graphs = copies.map((weight) =>
            ggml.graph((context) => {
              const input = g.tensor(context, types.f32, columns, tokens, 1);
              return { input, result: g.product(context, weight, input) };
            }),
          );
          held.push(...graphs);
          for (const { inputs } of graphs) g.write(inputs.input, x, 0, x.byteLength);
          graphs[0].run();
          const y = new Float32Array(outputs);
          g.read(graphs[0].result, y, 0, y.byteLength);
          checkDense(`${format} ${name}`, x, y, pool, columns, outputs);
          return (round) => graphs[round % sets].run();
        },
        dispose() {
          for (const one of held.reverse()) one.dispose();
        },
      },
    ];
  });
}

/** gate, up, activation, down and the weighted sum over a token's experts; what chooses the experts is not in it. */
export function experts(ggml, format, shape, { sets }) {
  const { hidden, intermediate, experts: count, topK, kind } = shape;
  const gated = kind === 'swiglu';
  const inward = [hidden, intermediate, count];
  const shapes = [...(gated ? [inward, inward] : [inward]), [intermediate, hidden, count]];
  return ggml.bufferTypes.flatMap(({ type, name }) => {
    const use = (context, tensor, at) => {
      const input = g.tensor(context, types.f32, shapes[at][0], 1, 1);
      return g.productById(context, tensor, input, g.tensor(context, types.i32, topK, 1, 1));
    };
    const layers = [];
    const held = [];
    for (let set = 0; set < sets; set++) {
      const made = ggml.weights(type, format, shapes, use);
      if (!made) return [];
      for (const [at, tensor] of made.tensors.entries()) {
        const [columns, rows] = shapes[at];
        const data = quantized(format, rowPool(columns), columns, rows * count);
        g.write(tensor, data, 0, data.length);
      }
      layers.push(made.tensors);
      held.push(made);
    }
    return [
      {
        name: 'llama.cpp',
        format: `${format}, ${name}`,
        /** `ids`: i32 [tokens, topK] of each call. */
        prepare(tokens, ids) {
          const x = random(tokens * hidden);
          const gates = new Float32Array(tokens * topK).fill(1 / topK);
          const graphs = layers.map((tensors) => ggml.graph((context) => expertGraph(context, tensors, shape, tokens)));
          held.push(...graphs);
          for (const { inputs } of graphs) {
            g.write(inputs.input, x, 0, x.byteLength);
            g.write(inputs.gates, gates, 0, gates.byteLength);
          }
          const call = (round) => {
            const { inputs, run } = graphs[round % sets];
            const chosen = ids[Math.floor(round / sets) % ids.length];
            g.write(inputs.ids, chosen, 0, chosen.byteLength);
            run();
          };
          call(0);
          const y = new Float32Array(tokens * hidden);
          g.read(graphs[0].result, y, 0, y.byteLength);
          if (!y.every(Number.isFinite) || y.every((value) => value === 0)) throw new Error('ggml: no results');
          return call;
        },
        dispose() {
          for (const one of held.reverse()) one.dispose();
        },
      },
    ];
  });
}

function expertGraph(context, tensors, { hidden, kind, topK }, tokens) {
  const input = g.tensor(context, types.f32, hidden, 1, tokens);
  const ids = g.tensor(context, types.i32, topK, tokens, 1);
  const gates = g.tensor(context, types.f32, 1, topK, tokens);
  const inner = tensors.slice(0, -1).map((weight) => g.productById(context, weight, input, ids));
  const active = kind === 'swiglu' ? g.swiglu(context, inner[0], inner[1]) : g.relu(context, inner[0]);
  const rows = g.multiply(context, g.productById(context, tensors.at(-1), active, ids), gates);
  const part = (k) => g.view(context, rows, hidden, tokens, 4 * hidden * topK, 4 * hidden * k);
  let result = part(0);
  for (let k = 1; k < topK; k++) result = g.add(context, result, part(k));
  return { input, ids, gates, result };
}
