/** `kvasir bench NAME`: measurements of this machine, as figures that can be compared. */

import { takeInventory } from '@kvasir/host-agent/inventory/inventory'
import { SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import type { Command } from 'commander'
import type { OverheadOptions, OverheadResult } from '../bench/overhead.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import { positiveOption } from './option-values.js'
import { interruptSignal, type Run } from './run-command.js'

interface BenchOptions extends OverheadOptions {
  readonly json?: boolean
}

export function benchCommand(program: Command, run: Run): void {
  const bench = program.command('bench').description('measure this machine')
  bench
    .command('overhead')
    .description('compare the cluster with the same engine in one process; takes some minutes')
    .option('--model <spec>', 'model of the ratios and the overlap', 'dummy:llama-0.5b')
    .option('--rounds <count>', 'alternations of cluster and engine', positiveOption(1_000), 5)
    .option('--json', 'print one JSON document')
    .action((options: BenchOptions) =>
      run(async (): Promise<ExitCode> => {
        const interrupted = interruptSignal()
        try {
          // The engine is large, and only this needs it.
          const { benchOverhead } = await import('../bench/overhead.js')
          const result = await benchOverhead(options, interrupted)
          if (options.json) printJson({ name: 'overhead', ...result, environment: environment() })
          else show(result)
          return EXIT.ok
        } catch (error) {
          if (interrupted.aborted) return EXIT.interrupted
          throw error
        }
      }),
    )
}

function environment(): Record<string, string | number> {
  const { processors, memory } = takeInventory()
  return {
    node: process.versions.node,
    version: SOFTWARE_VERSION,
    cpu: processors.model,
    cores: processors.cores,
    memoryBytes: memory.totalBytes,
  }
}

function show({ figures }: OverheadResult): void {
  print(renderTable(Object.entries(figures).map(([name, value]) => [color.dim(name), String(value)])))
}
