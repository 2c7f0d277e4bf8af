/** `kvasir bench NAME`: measurements of this machine, as figures that can be compared. */

import { type Command, Option } from 'commander'
import type { BenchResult } from '../bench/bench-result.js'
import type { LlamaBenchOptions } from '../bench/llama.js'
import { environment } from '../environment.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import { positiveOption } from './option-values.js'
import { interruptSignal, type Run } from './run-command.js'
import { modelDefault } from './up-options.js'

const roundsMax = 1_000
const modelLarge = 'dummy:llama-0.5b'

/** A bench as `add` gets it: its command, to which it adds options, and what it does with them. */
interface BenchEntry<Options> {
  readonly name: string
  readonly description: string
  readonly options: (command: Command) => Command
  /** Loaded when asked for, since a bench needs the engine, which is large. */
  readonly measure: (options: Options, signal: AbortSignal) => Promise<BenchResult>
}

export function benchCommand(program: Command, run: Run): void {
  const bench = program.command('bench').description('measure this machine')
  add(bench, run, {
    name: 'overhead',
    description: 'compare the cluster with the same engine in one process; takes some minutes',
    options: (command) =>
      command
        .option('--model <spec>', 'model of the ratios and the overlap', modelLarge)
        .option('--rounds <count>', 'alternations of cluster and engine', positiveOption(roundsMax), 5),
    measure: async (options: { model: string; rounds: number }, signal) =>
      (await import('../bench/overhead.js')).benchOverhead(options, signal),
  })
  add(bench, run, {
    name: 'cache',
    description:
      'time to the first token with the prompt cached nowhere, here, on another device, in host memory',
    options: (command) =>
      command
        .option('--model <spec>', 'model', modelLarge)
        .option('--prompt-tokens <count>', 'length of the prompt', positiveOption(100_000), 1_024)
        .option('--rounds <count>', 'prompts', positiveOption(roundsMax), 5),
    measure: async (options: { model: string; rounds: number; promptTokens: number }, signal) =>
      (await import('../bench/cache.js')).benchCache(options, signal),
  })
  add(bench, run, {
    name: 'kv',
    description: 'move 1 GiB of KV from one process into the leased memory of another',
    options: (command) =>
      command
        .option('--model <spec>', 'model whose KV is moved', modelLarge)
        .option('--rounds <count>', 'alternations of KV and a plain socket', positiveOption(roundsMax), 5),
    measure: async (options: { model: string; rounds: number }, signal) =>
      (await import('../bench/kv.js')).benchKv(options, signal),
  })
  add(bench, run, {
    name: 'core',
    description: 'how many requests a second the coordinator places in a large cluster, on one core',
    options: (command) =>
      command
        .option('--devices <count>', 'devices of the cluster', positiveOption(10_000), 1_000)
        .option('--blocks <count>', 'blocks that the devices hold', positiveOption(1_000_000), 1_000_000)
        .option('--prompt-tokens <count>', 'length of the prompts', positiveOption(100_000), 10_000)
        .option('--decisions <count>', 'requests placed', positiveOption(10_000_000), 20_000),
    measure: async (
      options: { devices: number; blocks: number; promptTokens: number; decisions: number },
      signal,
    ) => (await import('../bench/core.js')).benchCore(options, signal),
  })
  add(bench, run, {
    name: 'driver',
    description: "what a driver in a process of its own costs, against the same one in the agent's",
    options: (command) =>
      command
        .option('--model <spec>', 'model', modelLarge)
        .option('--rounds <count>', 'alternations of both', positiveOption(roundsMax), 5),
    measure: async (options: { model: string; rounds: number }, signal) =>
      (await import('../bench/driver.js')).benchDriver(options, signal),
  })
  add(bench, run, {
    name: 'engine',
    description: "prefill and decode in f32 and in the FPGA's precision, against what this machine can do",
    options: (command) =>
      command
        .option('--model <spec>', 'model', modelLarge)
        .option('--rounds <count>', 'times that everything is measured', positiveOption(roundsMax), 5),
    measure: async (options: { model: string; rounds: number }, signal) =>
      (await import('../bench/engine.js')).benchEngine(options, signal),
  })
  add(bench, run, {
    name: 'llama',
    description: 'the same GGUF file by this engine and by llama.cpp, which is installed on demand',
    options: (command) =>
      command
        .option('--gguf <file>', 'GGUF file; without it one of llama-0.5b is written')
        .addOption(
          new Option('--type <type>', 'type of the file that is written')
            .choices(['F32', 'F16', 'Q8_0', 'Q4_0', 'Q4_K'])
            .default('Q4_0'),
        )
        .option('--rounds <count>', 'alternations of the engines', positiveOption(roundsMax), 5),
    measure: async (options: LlamaBenchOptions, signal) =>
      (await import('../bench/llama.js')).benchLlama(options, signal),
  })
  add(bench, run, {
    name: 'numerics',
    description: "what the FPGA's precision costs in quality, on held-out text of the bundled model",
    options: (command) => command.option('--model <spec>', 'model', modelDefault),
    measure: async (options: { model: string }, signal) =>
      (await import('../bench/numerics.js')).benchNumerics(options, signal),
  })
  add(bench, run, {
    name: 'relevancy',
    description: "the round trip of one layer's attention to an FPGA agent",
    options: (command) =>
      command
        .option('--tokens <count>', 'tokens of KV on the other device', positiveOption(60_000), 32_768)
        .option('--budget-percent <percent>', 'share of the pages attended to', positiveOption(100), 10)
        .option('--queries <count>', 'queries of each kind', positiveOption(1_000_000), 1_000),
    measure: async (options: { tokens: number; budgetPercent: number; queries: number }, signal) =>
      (await import('../bench/relevancy.js')).benchRelevancy(options, signal),
  })
  add(bench, run, {
    name: 'retrieval',
    description: 'how well and how fast a test collection is searched, by one FPGA agent and by two',
    options: (command) =>
      command
        .requiredOption('--corpus <file>', 'documents, {"_id", "title", "text"} a line')
        .requiredOption('--queries <file>', 'queries, {"_id", "text"} a line')
        .requiredOption('--qrels <file>', 'judgements: query-id, corpus-id and score, separated by tabs'),
    measure: async (options: { corpus: string; queries: string; qrels: string }, signal) =>
      (await import('../bench/retrieval.js')).benchRetrieval(options, signal),
  })
  add(bench, run, {
    name: 'sparse',
    description:
      "what sparse attention costs in accuracy and saves in bytes, on the bundled model's recall set",
    options: (command) =>
      command
        .option(
          '--lengths <tokens>',
          'prompt lengths, separated by commas',
          lengthsOption,
          [512, 1_024, 2_048],
        )
        .option('--cases <count>', 'cases of each length', positiveOption(roundsMax), 60),
    measure: async (options: { lengths: readonly number[]; cases: number }, signal) =>
      (await import('../bench/sparse.js')).benchSparse(options, signal),
  })
}

function lengthsOption(text: string): readonly number[] {
  return text.split(',').map((part) => positiveOption(1_000_000)(part.trim()))
}

function add<Options>(bench: Command, run: Run, entry: BenchEntry<Options>): void {
  const command = bench.command(entry.name).description(entry.description)
  entry
    .options(command)
    .option('--json', 'print one JSON document')
    .action((options: Options & { readonly json?: boolean }) =>
      run(async (): Promise<ExitCode> => {
        const interrupted = interruptSignal()
        try {
          const result = await entry.measure(options, interrupted)
          if (options.json) printJson({ name: entry.name, ...result, environment: environment() })
          else show(result)
          return EXIT.ok
        } catch (error) {
          if (interrupted.aborted) return EXIT.interrupted
          throw error
        }
      }),
    )
}

function show({ figures }: BenchResult): void {
  print(renderTable(Object.entries(figures).map(([name, value]) => [color.dim(name), String(value)])))
}
