import { setTimeout as wait } from 'node:timers/promises';

const [stepMs, mostSteps, idleMicroseconds] = [20, 50, 1000];

/** Until no thread of this process computes: those of a peer look for work for a while, on cores that the next subject needs. */
export async function rest() {
  for (let step = 0; step < mostSteps; step++) {
    const before = process.cpuUsage();
    await wait(stepMs);
    const { user, system } = process.cpuUsage(before);
    if (user + system < idleMicroseconds) return;
  }
  throw new Error('a thread of a peer does not come to rest');
}
