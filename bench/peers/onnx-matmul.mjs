// The ONNX model y = x·W as bytes: MatMul with W [inputs, outputs] as an initializer. Protocol buffers by hand, a few fields of onnx.proto.

const varint = (value) => {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
};
const field = (number, content) =>
  typeof content === 'number'
    ? Buffer.concat([varint(number * 8), varint(content)])
    : Buffer.concat([varint(number * 8 + 2), varint(content.length), content]);
const text = (number, value) => field(number, Buffer.from(value));
const message = (...fields) => Buffer.concat(fields);

const float32 = 1;
const dimension = (size) => field(1, typeof size === 'string' ? text(2, size) : field(1, size));
const valueInfo = (name, shape) =>
  message(text(1, name), field(2, field(1, message(field(1, float32), field(2, message(...shape.map(dimension)))))));

/** @param weight Float32Array [inputs, outputs] */
export function onnxMatMul(weight, inputs, outputs) {
  const node = message(text(1, 'x'), text(1, 'w'), text(2, 'y'), text(4, 'MatMul'));
  const raw = Buffer.from(weight.buffer, weight.byteOffset, weight.byteLength);
  const initializer = message(field(1, inputs), field(1, outputs), field(2, float32), text(8, 'w'), field(9, raw));
  const graph = message(
    field(1, node),
    text(2, 'matmul'),
    field(5, initializer),
    field(11, valueInfo('x', ['tokens', inputs])),
    field(12, valueInfo('y', ['tokens', outputs])),
  );
  return message(field(1, 8), field(7, graph), field(8, message(text(1, ''), field(2, 17))));
}
