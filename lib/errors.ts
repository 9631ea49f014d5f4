/**
 * Every error that node-moe throws is a {@link MoeError} with a code from this table; docs/errors.md says what to do about each.
 * The native core makes the same class (addon.ts hands it over), so `stack` is that of the call.
 */
export const errorCodes = {
  INVALID_ARGUMENT: 'an argument is not what the function takes',
  DISPOSED: 'the object was disposed before this call',
  SHAPE_MISMATCH: 'a shape does not fit',
  DTYPE_MISMATCH: 'an element type does not fit',
  UNSUPPORTED: 'legal, but not on this device or not for this model',
  OUT_OF_MEMORY: 'memory or the set memory limit is exhausted',
  DEVICE_UNAVAILABLE: 'there is no such device here',
  DEVICE_LOST: 'the device stopped answering',
  FILE_UNREADABLE: 'a file is missing or cannot be read',
  FILE_EXISTS: 'the output exists already',
  FILE_UNWRITABLE: 'an output cannot be written',
  ABORTED: 'the run was aborted',
  INTERNAL: 'a defect of node-moe',
  ADDON_MISSING: 'no native binary for this platform was found',
  CHECKPOINT_MALFORMED: 'a safetensors file or its index breaks the format',
  CHECKPOINT_TENSOR_MISSING: 'a tensor that the model needs is not in the checkpoint',
  CHECKPOINT_TENSOR_UNKNOWN: 'the checkpoint holds tensors that the model does not know',
  CONFIG_INVALID: 'a value in config.json is missing or out of range',
  CONFIG_UNSUPPORTED: 'the model family or a setting of it is not supported',
  TOKENIZER_INVALID: 'tokenizer.json is missing or broken',
  CONTEXT_EXCEEDED: 'the text is longer than the model or the cache takes',
  RECIPE_INVALID: 'a compression recipe or one of its options is not usable',
} as const;

export type ErrorCode = keyof typeof errorCodes;

export interface ErrorDetails {
  /** Name of the argument, tensor, config key or file at fault. */
  argument?: string;
  /** What would have been right. */
  expected?: string;
  /** What came. */
  received?: string;
  cause?: unknown;
}

/** `message` reads "CODE argument: expected …, got …". */
export class MoeError extends Error {
  override readonly name = 'MoeError';
  readonly code: ErrorCode;
  readonly argument: string | undefined;
  readonly expected: string | undefined;
  readonly received: string | undefined;

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    const { argument, expected, received, cause } = details;
    const sentence = [expected && `expected ${expected}`, received && `got ${received}`].filter(Boolean).join(', ');
    const subject = argument ? `${argument}: ` : '';
    super(`${code} ${subject}${sentence || errorCodes[code]}`, cause === undefined ? undefined : { cause });
    this.code = code;
    this.argument = argument;
    this.expected = expected;
    this.received = received;
  }
}
