/** `kvasir models`: which models the cluster has and where; load and unload them while it serves. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import { type Command, Option } from 'commander'
import { locateCluster } from '../client/locate-cluster.js'
import { followLoad, type LoadOutcome } from '../client/model-loading.js'
import {
  type LoadBegun,
  listModels,
  loadModel,
  type ModelCard,
  type ModelDevice,
  unloadModel,
} from '../client/models.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatBytes } from '../format.js'
import { describeArrival, loadDisplay } from '../load-display.js'
import { color, print, printJson, renderTable, say } from '../terminal.js'
import { bytesOption, listOption } from './option-values.js'
import { interruptSignal, type Run } from './run-command.js'

/** Of a digest, enough to tell models apart. */
const DIGEST_SHOWN = 12

interface Options {
  readonly json?: boolean
}

interface OrderOptions extends Options {
  readonly device?: readonly string[]
  readonly profile?: string
}

interface LoadOptions extends OrderOptions {
  readonly kvBytes?: number
}

export function profileOption(description: string): Option {
  return new Option('--profile <name>', description).choices(['exact', 'paper'])
}

export function modelsCommand(program: Command, run: Run): void {
  const models = program
    .command('models')
    .description('list the models, and the devices that have them')
    .option('--json', 'print one JSON document')
    .action((options: Options) => run(() => list(options)))
  models
    .command('load <name>')
    .description('have devices load one more model, and wait until they have it')
    .option('--device <id>', 'device to load it on; repeatable (default: all that run models)', listOption)
    .addOption(profileOption("numerics (default: the cluster's)"))
    .option(
      '--kv-bytes <bytes>',
      "memory for its KV in each device's nearest tier, such as 64M; an FPGA's DDR grows with it",
      bytesOption(1),
    )
    .option('--json', 'print one JSON document')
    .action((name: string, _options: LoadOptions, command: Command) =>
      // --json is an option of `models` too, which takes it wherever it stands.
      run(() => load(name, command.optsWithGlobals<LoadOptions>())),
    )
  models
    .command('unload <name>')
    .description('have devices unload a model once what runs with it has ended')
    .option('--device <id>', 'device to unload it from; repeatable (default: all)', listOption)
    .addOption(profileOption('unload it in these numerics alone (default: in all)'))
    .option('--json', 'print one JSON document')
    .action((name: string, _options: OrderOptions, command: Command) =>
      run(() => unload(name, command.optsWithGlobals<OrderOptions>())),
    )
}

async function list({ json }: Options): Promise<ExitCode> {
  const cards = await listModels(locateCluster())
  if (json) printJson({ models: cards.map(documentOf) })
  else if (cards.length === 0) print('The cluster has no model: load one with `npx kvasir models load NAME`.')
  else print(tableOf(cards))
  return EXIT.ok
}

async function load(name: string, options: LoadOptions): Promise<ExitCode> {
  const url = locateCluster()
  const interrupted = interruptSignal()
  const { device: devices, profile: wanted, kvBytes } = options
  try {
    const wish = { model: modelSpec(name), devices, profile: wanted, kvBytes }
    const begun = await loadModel(url, wish, interrupted)
    const outcomes = await followShown(url, begun, interrupted)
    const told = tellOutcomes(begun, outcomes, options)
    const isSomewhere = outcomes.some(({ state }) => state === 'loaded')
    return isSomewhere && !(await tellHowToAsk(url, begun)) ? EXIT.failure : told
  } catch (error) {
    if (!interrupted.aborted) throw error
    say(`The devices go on loading ${name}: \`npx kvasir models\` tells how far they are.`)
    return EXIT.interrupted
  }
}

function tellOutcomes(
  { model, profile }: LoadBegun,
  outcomes: readonly LoadOutcome[],
  { json }: LoadOptions,
): ExitCode {
  if (json) printJson({ model, profile, devices: outcomes })
  else {
    const rows = outcomes.map(({ deviceId, state, error }) => [
      deviceId,
      error === null ? color.green(state) : color.red(error),
    ])
    print(renderTable(rows))
  }
  return outcomes.every(({ state }) => state === 'loaded') ? EXIT.ok : EXIT.failure
}

/** Whether it can be asked for: a device loads a model without a tokenizer too. */
async function tellHowToAsk(url: string, { model }: LoadBegun): Promise<boolean> {
  const card = (await listModels(url)).find(({ id }) => id === model)
  const isAskable = card !== undefined && card.kvasir.chat !== null
  const command = `\`npx kvasir run --model ${model} PROMPT\``
  say(isAskable ? `ask for it with ${command}` : `its tokenizer is not there yet: ${command} says why`)
  return isAskable
}

async function followShown(
  url: string,
  begun: LoadBegun,
  interrupted: AbortSignal,
): Promise<readonly LoadOutcome[]> {
  const display = loadDisplay(begun.model)
  try {
    return await followLoad(url, begun, interrupted, (progress) => display.show(progress))
  } finally {
    display.close()
  }
}

async function unload(name: string, options: OrderOptions): Promise<ExitCode> {
  const { device: devices, profile } = options
  const answer = await unloadModel(locateCluster(), { model: modelSpec(name), devices, profile })
  const document = {
    model: answer.model,
    devices: answer.devices.map(({ device_id: deviceId, profile, error }) => ({ deviceId, profile, error })),
  }
  if (options.json) printJson(document)
  else {
    const rows = document.devices.map(({ deviceId, profile, error }) => [
      deviceId,
      profile,
      error === null ? 'unloads it once what runs has ended' : color.red(error),
    ])
    print(renderTable(rows))
  }
  return document.devices.every(({ error }) => error === null) ? EXIT.ok : EXIT.failure
}

/** A path that is one here as agents of this machine find it; anything else as it was typed. */
export function modelSpec(name: string): string {
  if (name.startsWith('dummy:')) return name
  const here = path.resolve(name)
  const isModel = existsSync(path.join(here, 'config.json')) || /\.gguf$/i.test(name)
  return isModel && existsSync(here) ? here : name
}

function tableOf(cards: readonly ModelCard[]): string {
  const head = ['model', 'digest', 'context', 'profile', 'device', 'state', 'numerics', 'weights', 'KV']
  const rows = cards.flatMap(({ id, kvasir }) => {
    const named = [
      kvasir.ready ? id : color.yellow(id),
      kvasir.digest?.slice(0, DIGEST_SHOWN) ?? '–',
      kvasir.context_tokens_max === null ? '–' : String(kvasir.context_tokens_max),
    ]
    if (kvasir.devices.length === 0)
      return [[...named, '–', '–', color.yellow('on no device'), '–', '–', '–']]
    return kvasir.devices.map((device, index) => [
      ...(index === 0 ? named : named.map(() => '')),
      ...deviceCells(device),
    ])
  })
  return renderTable(rows, head)
}

function deviceCells(device: ModelDevice): string[] {
  const bytes = (value: number | null) => (value === null ? '–' : formatBytes(value))
  const paint = device.state === 'loaded' ? color.green : device.state === 'failed' ? color.red : color.yellow
  return [
    device.profile,
    device.device_id,
    paint(device.state === 'loaded' ? 'loaded' : describeArrival(device)),
    device.numerics ?? '–',
    bytes(device.weight_bytes),
    bytes(device.kv_bytes),
  ]
}

/** As docs/schemas/models.json has it. */
function documentOf({ id, kvasir }: ModelCard) {
  return {
    id,
    digest: kvasir.digest,
    contextTokensMax: kvasir.context_tokens_max,
    chat: kvasir.chat,
    ready: kvasir.ready,
    profiles: kvasir.profiles,
    devices: kvasir.devices.map((device) => ({
      deviceId: device.device_id,
      profile: device.profile,
      state: device.state,
      numerics: device.numerics,
      weightBytes: device.weight_bytes,
      kvBytes: device.kv_bytes,
      bytes: device.bytes,
      bytesTotal: device.bytes_total,
      sourceDeviceId: device.source_device_id,
      error: device.error,
    })),
  }
}
