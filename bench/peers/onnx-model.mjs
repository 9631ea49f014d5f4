// Writes an ONNX model of one node: the few fields of onnx.proto3 that this takes.
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

const dtypes = { f32: 1, u8: 2, i8: 3 };

function attribute(name, value) {
  if (typeof value === 'string') return { name, s: Buffer.from(value), type: 3 };
  return Number.isInteger(value) ? { name, i: value, type: 2 } : { name, f: value, type: 1 };
}

/**
 * `op`: { type, domain, attributes, inputs }, where an input is a name of `inputs`, a constant { data, shape, dtype }, or '' for none.
 * `inputs` maps names to the columns of f32 [tokens, columns]; the output is y, f32 [tokens, columns]. Returns the bytes of the file.
 */
export function onnxModel(op, inputs, columns) {
  const initializer = [];
  const names = op.inputs.map((input, at) => {
    if (typeof input === 'string') return input;
    const { data, shape, dtype } = input;
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    initializer.push({ name: `c${at}`, dims: shape, data_type: dtypes[dtype], raw_data: raw });
    return `c${at}`;
  });
  const info = (name, width) => ({
    name,
    type: { tensor_type: { elem_type: 1, shape: { dim: [{ dim_param: 'tokens' }, { dim_value: width }] } } },
  });
  const { type, domain = '', attributes = {} } = op;
  const node = { input: names, output: ['y'], op_type: type, domain };
  node.attribute = Object.entries(attributes).map(([name, value]) => attribute(name, value));
  const opset = [{ domain: '', version: 21 }, ...(domain ? [{ domain, version: 1 }] : [])];
  const graph = {
    name: 'g',
    node: [node],
    initializer,
    input: Object.entries(inputs).map(([name, width]) => info(name, width)),
  };
  graph.output = [info('y', columns)];
  return Model.encode({ ir_version: 10, opset_import: opset, graph }).finish();
}
