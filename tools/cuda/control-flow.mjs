/** Which instructions of a disassembled kernel are in a loop. */

/**
 * @typedef {object} Instruction
 * @property {number} address   bytes from the kernel's start
 * @property {string} text      predicate, opcode and operands: `@P0 BRA 0x200`
 * @property {string} opcode    `LDG.E.128`
 */

/** Where control can go after an instruction. A call returns, so it counts as going on; a jump through a register as an end. */
function successors(instructions, index, indexOf) {
  const { text, opcode } = instructions[index];
  const [operation] = opcode.split('.');
  const target = operation === 'BRA' || operation === 'JMP' ? /\b0x([0-9a-f]+)\s*$/.exec(text)?.[1] : undefined;
  // A branch that depends on a predicate has it in front (@P0 BRA) or as an operand (BRA P0, 0x10; BRA.DIV UR4, 0x10).
  const always = target ? /^\w[\w.]* 0x/.test(text) : /^(EXIT|RET|BRX|JMX)\b/.test(text);
  const next = [];
  if (!always && index + 1 < instructions.length) next.push(index + 1);
  const jump = target === undefined ? undefined : indexOf.get(Number.parseInt(target, 16));
  if (jump !== undefined) next.push(jump);
  return next;
}

/**
 * For each instruction whether it can be reached from itself: a loop's body, however the compiler laid it out. The branch to
 * itself that ends every kernel is padding and counts as none.
 * @param {Instruction[]} instructions
 * @returns {boolean[]}
 */
export function inLoops(instructions) {
  const indexOf = new Map(instructions.map(({ address }, index) => [address, index]));
  const forward = instructions.map((_, index) => successors(instructions, index, indexOf));
  const backward = instructions.map(() => []);
  forward.forEach((targets, from) => {
    for (const to of targets) backward[to].push(from);
  });
  // Strongly connected components by Kosaraju: by falling end of a forward walk, walk backward. More than one member: a loop.
  const looping = instructions.map(() => false);
  const claimed = new Set();
  for (const start of finishOrder(forward).reverse()) {
    if (claimed.has(start)) continue;
    const component = reach(start, backward, claimed);
    if (component.length > 1) for (const index of component) looping[index] = true;
  }
  return looping;
}

/** All nodes, each after everything first reached from it. */
function finishOrder(edges) {
  const order = [];
  const seen = new Set();
  for (let root = 0; root < edges.length; root++) {
    if (seen.has(root)) continue;
    seen.add(root);
    const stack = [{ node: root, edge: 0 }];
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      const to = edges[top.node][top.edge++];
      if (to === undefined) order.push(stack.pop().node);
      else if (!seen.has(to)) {
        seen.add(to);
        stack.push({ node: to, edge: 0 });
      }
    }
  }
  return order;
}

/** What can be reached from a node without passing claimed ones; claims it. */
function reach(start, edges, claimed) {
  const found = [start];
  claimed.add(start);
  for (const node of found) {
    for (const to of edges[node]) {
      if (claimed.has(to)) continue;
      claimed.add(to);
      found.push(to);
    }
  }
  return found;
}
