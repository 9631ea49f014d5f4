// Builds an ONNX model: the few fields of onnx.proto3 that this takes.
import protobuf from 'protobufjs';

const message = (fields) => ({
  fields: Object.fromEntries(fields.map(([name, type, id, rule]) => [name, { type, id, rule }])),
});
const schema = protobuf.Root.fromJSON({
  nested: {
    Model: message([
      ['ir_version', 'int64', 1],
      ['opset_import', 'Opset', 8, 'repeated'],
      ['graph', 'Graph', 7],
    ]),
    Opset: message([
      ['domain', 'string', 1],
      ['version', 'int64', 2],
    ]),
    Graph: message([
      ['node', 'Node', 1, 'repeated'],
      ['name', 'string', 2],
      ['initializer', 'TensorData', 5, 'repeated'],
      ['input', 'ValueInfo', 11, 'repeated'],
      ['output', 'ValueInfo', 12, 'repeated'],
    ]),
    Node: message([
      ['input', 'string', 1, 'repeated'],
      ['output', 'string', 2, 'repeated'],
      ['op_type', 'string', 4],
      ['domain', 'string', 7],
      ['attribute', 'Attribute', 5, 'repeated'],
    ]),
    Attribute: message([
      ['name', 'string', 1],
      ['f', 'float', 2],
      ['i', 'int64', 3],
      ['s', 'bytes', 4],
      ['type', 'int32', 20],
    ]),
    TensorData: message([
      ['dims', 'int64', 1, 'repeated'],
      ['data_type', 'int32', 2],
      ['name', 'string', 8],
      ['raw_data', 'bytes', 9],
      ['external_data', 'Entry', 13, 'repeated'],
      ['data_location', 'int32', 14],
    ]),
    Entry: message([
      ['key', 'string', 1],
      ['value', 'string', 2],
    ]),
    ValueInfo: message([
      ['name', 'string', 1],
      ['type', 'Type', 2],
    ]),
    Type: message([['tensor_type', 'TensorType', 1]]),
    TensorType: message([
      ['elem_type', 'int32', 1],
      ['shape', 'Shape', 2],
    ]),
    Shape: message([['dim', 'Dimension', 1, 'repeated']]),
    Dimension: message([
      ['dim_value', 'int64', 1],
      ['dim_param', 'string', 2],
    ]),
  },
});
const Model = schema.lookupType('Model');

/** The domain of ONNX Runtime's own operations. */
export const contrib = 'com.microsoft';
export const dtypes = { f32: 1, u8: 2, i8: 3, i32: 6, i64: 7 };
const external = 1;
/** Constants below stay in the model: what shapes are made of has to. */
const externalBytes = 1024;

function attribute(name, value) {
  if (typeof value === 'string') return { name, s: Buffer.from(value), type: 3 };
  return Number.isInteger(value) ? { name, i: value, type: 2 } : { name, f: value, type: 1 };
}

const valueInfo = ({ name, dtype, shape }) => ({
  name,
  type: {
    tensor_type: {
      elem_type: dtypes[dtype],
      shape: { dim: shape.map((size) => (typeof size === 'string' ? { dim_param: size } : { dim_value: size })) },
    },
  },
});

export class OnnxGraph {
  #nodes = [];
  #constants = [];
  #names = 0;
  #store;

  /** `store` keeps large constants in a file beside the model: it takes bytes and returns { location, offset, length }. */
  constructor(store) {
    this.#store = store;
  }

  /** Of a typed array; returns its name. */
  constant(data, shape, dtype) {
    const name = this.#name();
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const tensor = { name, dims: shape, data_type: dtypes[dtype] };
    if (this.#store && bytes.length >= externalBytes) {
      tensor.external_data = Object.entries(this.#store(bytes)).map(([key, value]) => ({ key, value: String(value) }));
      tensor.data_location = external;
    } else {
      tensor.raw_data = bytes;
    }
    this.#constants.push(tensor);
    return name;
  }

  /** Inputs are names, '' for none; returns the name of the first output. */
  add(type, inputs, { domain = '', attributes = {}, outputs = [this.#name()] } = {}) {
    const attributeList = Object.entries(attributes).map(([name, value]) => attribute(name, value));
    this.#nodes.push({ input: inputs, output: outputs, op_type: type, domain, attribute: attributeList });
    return outputs[0];
  }

  /** Inputs and outputs are { name, dtype, shape }, sizes numbers or names. Returns the bytes of the model's file. */
  encode(inputs, outputs) {
    const opset = [
      { domain: '', version: 21 },
      { domain: contrib, version: 1 },
    ];
    const graph = { name: 'g', node: this.#nodes, initializer: this.#constants, input: inputs.map(valueInfo) };
    graph.output = outputs.map(valueInfo);
    return Model.encode({ ir_version: 10, opset_import: opset, graph }).finish();
  }

  #name() {
    return `v${this.#names++}`;
  }
}

/**
 * A model of one operation `op`: { type, domain, attributes, inputs }, where an input is a name of `inputs`, a constant
 * { data, shape, dtype }, or '' for none. `inputs` maps names to the columns of f32 [tokens, columns]; the output is y, f32
 * [tokens, columns].
 */
export function oneOperation({ type, domain, attributes, inputs: operands }, inputs, columns) {
  const graph = new OnnxGraph();
  const names = operands.map((operand) =>
    typeof operand === 'string' ? operand : graph.constant(operand.data, operand.shape, operand.dtype),
  );
  graph.add(type, names, { domain, attributes, outputs: ['y'] });
  const rows = (name, width) => ({ name, dtype: 'f32', shape: ['tokens', width] });
  return graph.encode(
    Object.entries(inputs).map(([name, width]) => rows(name, width)),
    [rows('y', columns)],
  );
}
