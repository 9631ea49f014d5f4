/** Groupings as labels: label g of an expert names the slot that it shares. */

/** The experts of each label, ascending. */
export function membersByLabel(labels: ArrayLike<number>): number[][] {
  const members = Array.from({ length: Math.max(...Array.from(labels)) + 1 }, (): number[] => []);
  Array.from(labels).forEach((label, expert) => {
    members[label]?.push(expert);
  });
  return members;
}

/** The most used member of each label; the lower index where two are used alike. */
export function dominantMembers(labels: ArrayLike<number>, frequency: Float64Array): number[] {
  return membersByLabel(labels).map((members) =>
    members.reduce((best, expert) => ((frequency[expert] as number) > (frequency[best] as number) ? expert : best)),
  );
}

/** The same partition with labels 0, 1, … in the order in which they occur. */
export function renumber(labels: Int32Array): Int32Array {
  const numbers = new Map<number, number>();
  return labels.map((label) => {
    const number = numbers.get(label) ?? numbers.size;
    numbers.set(label, number);
    return number;
  });
}
