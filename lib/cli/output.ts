/** What commands print: one JSON document or tables on stdout, progress and failures on stderr. */
import { CommanderError } from 'commander';
import { type ErrorCode, MoeError } from '../errors.ts';
import { Interrupted } from './interrupt.ts';

/** Lines of aligned columns: the first left, the others right. */
export function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [heads, ...rows];
  const widths = heads.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)));
  return lines
    .map((line) =>
      widths
        .map((width, column) => (line[column] ?? '')[column === 0 ? 'padEnd' : 'padStart'](width))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(2)} MB`;
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Typed arrays become lists. */
export function printJson(value: unknown): void {
  const plain = (_: string, inner: unknown): unknown =>
    ArrayBuffer.isView(inner) ? Array.from(inner as unknown as ArrayLike<number>) : inner;
  print(JSON.stringify(value, plain, 2));
}

/** A reader that has enough, as `head` in a pipe, ends the process without a word. */
export function quietOnClosedPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      process.exit(error.code === 'EPIPE' ? 0 : 1);
    });
  }
}

const fixes: Record<ErrorCode, string> = {
  INVALID_ARGUMENT: '--help shows what the command takes',
  DISPOSED: 'report it with the output of `node-moe doctor`',
  SHAPE_MISMATCH: 'check that config.json belongs to these weights',
  DTYPE_MISMATCH: 'convert the weights to F32, F16 or BF16',
  UNSUPPORTED: 'choose another --device or --weights',
  OUT_OF_MEMORY: 'use a smaller format (--weights int4), or free memory',
  DEVICE_UNAVAILABLE: '`node-moe doctor` says which devices there are and why',
  DEVICE_LOST: 'run it again; `node-moe doctor` says which devices there are',
  FILE_UNREADABLE: 'check the path',
  FILE_EXISTS: 'choose another folder, or pass --force to replace a model',
  FILE_UNWRITABLE: 'check permissions and free space',
  ABORTED: 'run it again',
  INTERNAL: 'report it with the output of `node-moe doctor`',
  ADDON_MISSING: 'run `npm run build` in the package, or install a version with a prebuilt binary for this platform',
  CHECKPOINT_MALFORMED: 'download the file again',
  CHECKPOINT_TENSOR_MISSING: 'check that all files of the model are in the folder',
  CHECKPOINT_TENSOR_UNKNOWN: 'check that config.json belongs to these weights',
  CONFIG_INVALID: 'download config.json again',
  CONFIG_UNSUPPORTED: 'use a model of a family that node-moe knows',
  TOKENIZER_INVALID: 'download tokenizer.json again',
  CONTEXT_EXCEEDED: 'use a shorter prompt or window, or fewer tokens',
  RECIPE_INVALID: '`node-moe compress --help` shows what a recipe takes',
};

/** One line: what failed, with its code, and what to do about it. */
export function failureLine(error: unknown): string {
  if (error instanceof CommanderError) {
    const command = process.argv[2]?.startsWith('-') === false ? ` ${process.argv[2]}` : '';
    const usage = error.code === 'commander.unknownCommand' ? '' : command;
    return oneLine(`INVALID_ARGUMENT ${error.message.replace(/^error: /, '')}`, `node-moe${usage} --help`);
  }
  if (error instanceof MoeError) return oneLine(error.message, fixes[error.code]);
  return oneLine(`INTERNAL ${error instanceof Error ? error.message : String(error)}`, fixes.INTERNAL);
}

function oneLine(message: string, fix: string): string {
  return `node-moe: ${message} (fix: ${fix})`.replace(/\s*\n\s*/g, ' ');
}

/** Prints why a command ended early, where that needs saying. Returns the exit code. */
export function reportFailure(error: unknown): number {
  // Help and version end a command this way too, after they have printed what was asked for.
  if (error instanceof CommanderError && (error.exitCode === 0 || error.code === 'commander.help'))
    return error.exitCode;
  process.stderr.write(`${process.stderr.isTTY ? clearLine : ''}${failureLine(error)}\n`);
  return error instanceof Interrupted ? error.exitCode : 1;
}

const clearLine = '\r\u001b[K';
/** Milliseconds between two drawings of the line on a terminal, and between two lines elsewhere. */
const [redrawAfter, repeatAfter] = [100, 10_000];

/** One rewritten line on a terminal; elsewhere a line for each phase, repeated while it takes long. Always on stderr. */
export class Progress {
  readonly #quiet: boolean;
  #phase = '';
  #started = performance.now();
  #drawn = 0;

  constructor(options: { quiet?: boolean } = {}) {
    this.#quiet = options.quiet === true;
  }

  /** @param done of `total` steps, in any unit */
  update(phase: string, done: number, total: number): void {
    if (this.#quiet) return;
    const now = performance.now();
    const fresh = phase !== this.#phase;
    if (fresh) {
      this.end();
      this.#phase = phase;
      this.#started = now;
    }
    const { isTTY, columns = 80 } = process.stderr;
    const due = now - this.#drawn >= (isTTY ? redrawAfter : repeatAfter);
    if (!fresh && !due && !(isTTY && done >= total)) return;
    this.#drawn = now;
    const share = total > 0 ? Math.min(1, done / total) : 1;
    const left = ((now - this.#started) / 1000) * (1 / share - 1);
    const time = share > 0.02 && share < 1 ? `${left.toFixed(0)} s left` : '';
    const percent = `${(100 * share).toFixed(0).padStart(3)} %`;
    if (!isTTY) {
      process.stderr.write(fresh ? `${phase} …\n` : `${phase} … ${percent.trim()}${time && `, ${time}`}\n`);
      return;
    }
    const bar = '█'.repeat(Math.round(24 * share)).padEnd(24, '░');
    // A wrapped line could not be cleared.
    process.stderr.write(clearLine + `${bar} ${percent} ${phase} ${time}`.trimEnd().slice(0, columns - 1));
  }

  /** For `Model.open`: shows the load of `folder` once it takes longer than a moment. */
  loading(folder: string): (progress: { done: number; total: number }) => void {
    const started = performance.now();
    return ({ done, total }) => {
      if (performance.now() - started > 500) this.update(`load ${folder}`, done, total);
    };
  }

  /** Clears the line; what follows on the terminal starts clean. */
  end(): void {
    if (!this.#quiet && process.stderr.isTTY && this.#phase !== '') process.stderr.write(clearLine);
    this.#phase = '';
  }
}
