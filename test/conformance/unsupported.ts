/** What devices may refuse: the one list, so that nothing else that stops working hides behind UNSUPPORTED. */
import { MoeError } from '../../lib/index.ts';

/** By device, the parts of a bank that it has no kernels for, as its UNSUPPORTED calls them. */
const unsupported: Readonly<Record<string, readonly string[]>> = {
  cpu: ['low-rank factors', 'kept rows', 'an n:m sparse part', 'dual-grained scales', 'a base that slots share'],
};

/** Whether a device refused a case for one of these parts. */
export function isUnsupported(error: unknown, device: string): error is MoeError {
  if (!(error instanceof MoeError) || error.code !== 'UNSUPPORTED') return false;
  return (unsupported[device] ?? []).includes(error.received ?? '');
}
