/** Ends the process at the stage named by the first argument, with code 7 where it says so itself. */
import { openDevice, Tensor, Weight } from '../../lib/index.ts';
import { linearProgram, longProgram, normal } from '../facade/support.ts';

const [, , stage, name = 'cpu'] = process.argv;
const device = await openDevice(name);
const spec = { in: 1024, out: 1024, format: { format: 'int4' } } as const;
const long = name === 'cpu' ? {} : { size: 64, depth: 50, tokens: 64 };

switch (stage) {
  case 'device open':
    process.exit(7);
    break;
  case 'weight loading':
    void Weight.from(device, spec, normal(1024 * 1024));
    process.exit(7);
    break;
  case 'tensor copying':
    void Tensor.from(device, normal(1 << 22), { dtype: 'f32', shape: [1 << 22] });
    process.exit(7);
    break;
  case 'program compiled':
    await linearProgram(device);
    process.exit(7);
    break;
  case 'running': {
    const { program, x } = await longProgram(device, long);
    for (let i = 0; i < 4; i++) void program.run({ x });
    setTimeout(() => process.exit(7), 20);
    break;
  }
  case 'running, at once': {
    const { program, x } = await longProgram(device, long);
    void program.run({ x });
    process.exit(7);
    break;
  }
  case 'running, device disposed': {
    const { program, x } = await longProgram(device, long);
    void program.run({ x });
    device.dispose();
    process.exit(7);
    break;
  }
  case 'measuring limits':
    void device.limits();
    setTimeout(() => process.exit(7), 20);
    break;
  case 'in an exit handler': {
    const { program } = await linearProgram(device);
    process.on('exit', () => program.runSync({ x: normal(64) }));
    process.exit(7);
    break;
  }
  case 'uncaught error while running': {
    const { program, x } = await longProgram(device, long);
    void program.run({ x });
    throw new Error('thrown on purpose');
  }
  case 'end of the script, nothing disposed': {
    const { program } = await linearProgram(device);
    await program.run({ x: normal(64) });
    process.exitCode = 7;
    break;
  }
  case 'end of the script, run pending': {
    const { program, x } = await longProgram(device, { size: 64, depth: 20, tokens: 16 });
    program.run({ x }).then(() => {
      process.exitCode = 7;
    });
    break;
  }
  default:
    process.exit(99);
}
