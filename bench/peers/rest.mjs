// Whether the machine is idle but for what is timed: peers' threads, and other processes.
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
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

/** Starts a count; what it returns gives the share of all cores' time that other processes (and other machines on them) took since. */
export function watchOthers() {
  const cores = availableParallelism();
  const [begin, busy, own] = [performance.now(), busyMicroseconds(), process.cpuUsage()];
  return () => {
    const { user, system } = process.cpuUsage(own);
    const others = busyMicroseconds() - busy - user - system;
    return Math.max(0, others / ((performance.now() - begin) * 1000 * cores));
  };
}

const jiffyMicroseconds = 10_000;

function busyMicroseconds() {
  const [, user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'utf8').split(/\s+/).map(Number);
  return (user + nice + system + irq + softirq + steal) * jiffyMicroseconds;
}
