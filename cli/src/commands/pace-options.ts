/** What `--pace` and its companions of `start` and `up` mean; a wrong name is said before anything is started. */
import path from 'node:path'
import { choosePace } from '@kvasir/agent/pace/choose-pace'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { PaceWish } from '../supervisor/cluster-plan.js'

export interface PaceOptions {
  /** KIND=DEVICE or DEVICE, each. */
  readonly pace?: readonly string[]
  readonly paceModel?: string
  readonly pacePreset?: string
  readonly catalogue?: readonly string[]
  readonly linkBytesPerSecond?: number
}

const KINDS = ['gpu', 'fpga'] as const
type PacedKind = (typeof KINDS)[number]

/**
 * Undefined where nothing is to be paced.
 *
 * @throws InvalidInputError for a kind, device, model or preset that is not there, and a model that does not fit
 */
export async function paceWish(options: PaceOptions): Promise<PaceWish | undefined> {
  const { pace = [], paceModel, pacePreset } = options
  // Agents run in another folder.
  const catalogue = (options.catalogue ?? []).map((file) => path.resolve(file))
  const given = { '--pace-model': paceModel, '--pace-preset': pacePreset, '--catalogue': catalogue[0] }
  if (pace.length === 0) {
    const [alone] = Object.entries(given).filter(([, value]) => value !== undefined)
    if (alone === undefined) return undefined
    throw new InvalidInputError(
      `${alone[0]} needs --pace, which says whose times to keep: such as --pace gpu=v100s --pace fpga=u280.`,
    )
  }
  if (paceModel === undefined) {
    throw new InvalidInputError('--pace needs --pace-model, a model of the catalogue such as llama-2-7b.')
  }
  const devices: Partial<Record<PacedKind, string>> = {}
  for (const wish of pace) {
    for (const [kind, device] of readWish(wish)) {
      const before = devices[kind]
      if (before !== undefined && before !== device) {
        throw new InvalidInputError(
          `--pace names two devices for ${kind} agents, ${before} and ${device}; choose one, or start further agents by hand.`,
        )
      }
      devices[kind] = device
      await choosePace({
        ...{ paceAs: device, paceModel, pacePreset, catalogue },
        linkBytesPerSecond: options.linkBytesPerSecond ?? 0,
      })
    }
  }
  return { devices, model: paceModel, preset: pacePreset, catalogue }
}

function readWish(wish: string): readonly (readonly [PacedKind, string])[] {
  const [first = '', second, ...rest] = wish.split('=')
  if (second === undefined) return KINDS.map((kind) => [kind, first])
  const kind = KINDS.find((known) => known === first)
  if (kind === undefined || second === '' || rest.length > 0) {
    throw new InvalidInputError(`--pace is "${wish}"; give gpu=DEVICE, fpga=DEVICE, or DEVICE for both.`)
  }
  return [[kind, second]]
}
