/** What `kvasir study replay` takes. */
import type { Command } from 'commander'
import { InvalidArgumentError, Option } from 'commander'
import { numberOption, positiveOption } from './option-values.js'

const REQUESTS_MAX = 100_000_000
const SECONDS_MAX = 1e9
const MS_MAX = 1e9

export function replayOptions(command: Command): Command {
  return command
    .option(
      '--trace <file>',
      'CSV or JSONL: Azure, BurstGPT, Mooncake or plain; without it, Azure-like lengths',
    )
    .option('--format <name>', 'azure, burstgpt, mooncake, csv or jsonl (recognised)')
    .addOption(
      new Option('--broken-rows <choice>', 'of rows that are no requests, and times that run backwards')
        .choices(['refuse', 'keep-rest'])
        .default('refuse'),
    )
    .option('--from <seconds>', 'where the window of the trace begins', numberOption(0, SECONDS_MAX), 0)
    .option('--to <seconds>', 'where it ends (at the end)', numberOption(0, SECONDS_MAX))
    .option('--limit <count>', 'requests at most', positiveOption(REQUESTS_MAX))
    .option('--speed <factor>', 'times of the trace are divided by it', numberOption(1e-6, 1e6), 1)
    .addOption(
      new Option('--arrivals <model>', 'instead of the trace’s times, with --rate')
        .choices(['trace', 'poisson', 'gamma', 'constant'])
        .default('trace'),
    )
    .option('--rate <number>', 'requests a second of an arrival model', numberOption(1e-6, 1e6))
    .option(
      '--variation <number>',
      'of gaps of gamma arrivals; above 1 they come in bursts',
      numberOption(0.05, 20),
      2,
    )
    .option('--requests <count>', 'made-up requests without a trace', positiveOption(REQUESTS_MAX), 2_000)
    .option('--cluster <file>', 'YAML with machines and devices (8 A100-80 and 8 U280)')
    .option(
      '--block-tokens <count>',
      'tokens of a KV block, instead of the cluster’s',
      positiveOption(65_536),
    )
    .option(
      '--slo-ttft <ms>',
      'time to the first token that counts as good',
      numberOption(0.001, MS_MAX),
      5_000,
    )
    .option('--slo-tpot <ms>', 'time a later token, on average', numberOption(0.001, MS_MAX), 100)
    .option('--attain <share>', 'of the requests that must meet the SLO', numberOption(0.001, 1), 0.9)
    .addOption(
      new Option('--policy <names>', 'policies to compare, separated by commas')
        .argParser(namesOption)
        .default(['house'], 'house'),
    )
    .option('--goodput', 'find the largest rate at which the SLO is met')
    .option('--what-if <devices>', 'find the smallest cluster of these that meets the SLO', namesOption)
    .option('--devices-max <count>', 'of each type, in the search', positiveOption(512), 32)
    .option('--years <number>', 'over which prices are spread', numberOption(0.01, 100), 3)
    .option('--kwh-dollars <number>', 'price of a kWh', numberOption(0, 100), 0.1)
}

/** Names separated by commas. */
function namesOption(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim())
  if (names.every((name) => name !== '')) return [...new Set(names)]
  throw new InvalidArgumentError('Give names separated by commas.')
}
