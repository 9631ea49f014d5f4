/** The one table of cases: operation × dtype × weight form, one awkward thing each, at most 16 MFLOP. */
import { attention } from './cases/attention.ts';
import { chains } from './cases/chains.ts';
import { combine } from './cases/combine.ts';
import { convolve, embed, map, norm, rotate, take } from './cases/elementwise.ts';
import { experts } from './cases/experts.ts';
import { linear } from './cases/linear.ts';
import { parts } from './cases/parts.ts';
import { routers } from './cases/router.ts';
import { route } from './cases/routing.ts';
import { given } from './cases/routing-given.ts';
import { accumulate, score } from './cases/statistics.ts';
import { tiles } from './cases/tiles.ts';
import type { Case } from './kit.ts';

export type Operation =
  | 'embed'
  | 'norm'
  | 'linear'
  | 'rotate'
  | 'attention'
  | 'map'
  | 'route'
  | 'combine'
  | 'convolve'
  | 'take'
  | 'score'
  | 'accumulate';

/** A row for each operation: one without cases does not compile. */
export const cases: Readonly<Record<Operation, readonly Case[]>> = {
  embed,
  norm,
  linear: [...linear, ...parts, ...tiles, ...chains],
  rotate,
  attention,
  map,
  route: [...route, ...given, ...routers],
  combine: [...combine, ...experts],
  convolve,
  take,
  score,
  accumulate,
};
