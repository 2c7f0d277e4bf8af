/** The options that `start` and `up` share, and what they mean. */
import { hostname } from 'node:os'
import path from 'node:path'
import { resolveModel } from '@kvasir/engine/model-files'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { projectRoot } from '@kvasir/runtime/state-folder'
import type { Command } from 'commander'
import type { ClusterWish } from '../supervisor/cluster-plan.js'
import { emulatedDriverCommand } from '../supervisor/emulated-driver.js'
import { profileOption } from './models.js'
import { bytesOption, countOption, listOption, rateOption } from './option-values.js'
import { paceWish } from './pace-options.js'

export interface UpOptions {
  readonly port?: number
  readonly nats?: string
  /** The first is loaded by every agent at its start, the others after it. */
  readonly model?: readonly string[]
  readonly profile?: string
  readonly gpus: number
  readonly fpgas: number
  readonly linkBytesPerSecond?: number
  readonly hbmBytes?: number
  readonly ddrBytes?: number
  readonly hostBytes?: number
  readonly driverProcess?: boolean
  /** KIND=DEVICE or DEVICE, each. */
  readonly pace?: readonly string[]
  readonly paceModel?: string
  readonly pacePreset?: string
  readonly catalogue?: readonly string[]
}

export const modelDefault = path.join(projectRoot(), 'models', 'skald')

export function addUpOptions(command: Command): Command {
  return command
    .option(
      '--port <number>',
      'port of the HTTP API (default: 8080, or the next free one)',
      countOption(65_535),
    )
    .option('--nats <url>', 'join this NATS server instead of starting one')
    .option(
      '--model <spec>',
      'model folder, GGUF file or dummy:llama-0.5b; repeatable, further ones are loaded after the start (default: skald)',
      listOption,
    )
    .addOption(profileOption('numerics of the agents, and of requests that ask for none (default: exact)'))
    .option('--gpus <count>', 'gpu agents', countOption(64), 1)
    .option('--fpgas <count>', 'fpga agents', countOption(64), 2)
    .option(
      '--link-bytes-per-second <rate>',
      "hold every agent's link to this rate (default: as fast as it goes)",
      rateOption,
    )
    .option(
      '--hbm-bytes <bytes>',
      'KV memory of each gpu and fpga agent, such as 64M (default: 268M)',
      bytesOption(1),
    )
    .option(
      '--ddr-bytes <bytes>',
      'second KV memory of each fpga agent, 0 for none (default: four times its HBM)',
      bytesOption(0),
    )
    .option('--host-bytes <bytes>', 'KV memory of the host agent (default: 268M)', bytesOption(1))
    .option('--driver-process', 'give each fpga agent a driver in a process of its own')
    .option(
      '--pace <kind=device>',
      'keep the times of a catalogued device, such as fpga=u280; repeatable; without a kind, all agents',
      listOption,
    )
    .option('--pace-model <name>', 'model of the catalogue for which they are kept, such as llama-2-7b')
    .option('--pace-preset <name>', 'how well the devices are used (default: glitches where it knows them)')
    .option('--catalogue <file>', 'file that adds to the catalogue or changes it; repeatable', listOption)
}

/** As given, at least the default. */
export function modelsOf({ model = [] }: UpOptions): readonly string[] {
  return model.length === 0 ? [modelDefault] : model
}

/** Agents run in another folder. */
async function modelPath(spec: string): Promise<string> {
  return (await resolveModel(spec)).path ?? spec
}

/**
 * @throws a KvasirError about a model before anything is started
 */
export async function clusterWish(options: UpOptions): Promise<ClusterWish> {
  if (options.nats !== undefined && !/^(nats|tls|ws|wss):\/\/\S+$/.test(options.nats)) {
    throw new InvalidInputError(`--nats is "${options.nats}"; give a URL such as nats://127.0.0.1:4222.`)
  }
  const [model = modelDefault, ...furtherModels] = await Promise.all(modelsOf(options).map(modelPath))
  return {
    model,
    furtherModels,
    profile: options.profile,
    gpus: options.gpus,
    fpgas: options.fpgas,
    port: options.port,
    linkBytesPerSecond: options.linkBytesPerSecond,
    hbmBytes: options.hbmBytes,
    ddrBytes: options.ddrBytes,
    hostBytes: options.hostBytes,
    pace: await paceWish(options),
    ...(options.driverProcess === true
      ? { agentFlags: { fpga: ['--driver', `exec:${emulatedDriverCommand()}`] } }
      : {}),
    devicePrefix: options.nats === undefined ? '' : `${hostname().replace(/[^A-Za-z0-9]+/g, '-')}-`,
  }
}
