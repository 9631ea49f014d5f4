import { MoeError } from '../errors.ts';

const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

/** Why a command stopped: Ctrl-C, or a request to end. */
export class Interrupted extends MoeError {
  readonly exitCode: number;

  constructor(signal: keyof typeof exitCodes) {
    super('ABORTED', { argument: signal });
    this.exitCode = exitCodes[signal];
  }
}

/** Aborts on the first SIGINT or SIGTERM, so that the command can tidy up; the second one ends the process at once. */
export function abortOnInterrupt(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => controller.abort(new Interrupted(signal)));
  }
  return controller.signal;
}
