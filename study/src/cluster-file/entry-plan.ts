/** From a cluster file that has the right form to a plan: names are looked up, counts unrolled, defaults filled in. */
import { deviceModel } from '@kvasir/catalogue/device-model'
import type { DeviceModel } from '@kvasir/catalogue/device-times'
import type { Catalogue, LinkSpec } from '@kvasir/catalogue/specs'
import { wireBytesPerToken } from '@kvasir/catalogue/wire-bytes'
import { didYouMean } from '@kvasir/runtime/did-you-mean'
import { InvalidInputError } from '@kvasir/runtime/errors'
import type { CapabilityName, ClusterPlan, PlannedDevice, PlannedMachine } from '../cluster/cluster-plan.js'
import type { ClusterDescription } from './cluster-file.js'
import type { DeviceEntry, LinkEntry, MachineEntry } from './cluster-schema.js'

type Path = readonly PropertyKey[]

const NETWORK = '100gbe'
const BLOCK_TOKENS = 16
const MERGE_LAYERS = 2
const MESSAGE_MS = 0.1
/** As engines of the vLLM class have them by default. */
const CHUNK_TOKENS = 8_192
const SHARED_CHUNK_TOKENS = 2_048
const DEVICES_MAX = 10_000

export function planOf(description: ClusterDescription, catalogue: Catalogue): ClusterPlan {
  const { entry, yaml } = description
  const model = catalogue.models.get(entry.model)
  if (!model) throw unknown(description, ['model'], 'model', entry.model, [...catalogue.models.keys()])
  const { profile = 'paper', blockTokens = BLOCK_TOKENS, mergeLayers = MERGE_LAYERS } = entry
  const taken = new Map<string, number>()
  const machines = entry.machines.flatMap((machine, index) => {
    return machinesOf(description, catalogue, machine, ['machines', index], taken)
  })
  const devices = machines.flatMap((machine) => machine.devices)
  for (const capability of ['prefill', 'decode'] as const) {
    if (devices.some(({ capabilities }) => capabilities.includes(capability))) continue
    throw yaml.error(
      ['machines'],
      `no device of the cluster can ${capability}; add ${capability} to the capabilities of one.`,
    )
  }
  if (devices.length > DEVICES_MAX) {
    throw yaml.error(['machines'], `the cluster has ${devices.length} devices; it may have ${DEVICES_MAX}.`)
  }
  return {
    name: entry.name ?? `${devices.length} devices`,
    model,
    preset: entry.preset,
    profile,
    blockTokens,
    wireBytesPerToken: wireBytesPerToken(model, profile),
    mergeLayers: Math.min(mergeLayers, model.layers),
    messageMs: entry.messageMs ?? MESSAGE_MS,
    machines,
  }
}

function machinesOf(
  description: ClusterDescription,
  catalogue: Catalogue,
  machine: MachineEntry,
  path: Path,
  taken: Map<string, number>,
): PlannedMachine[] {
  const { count = 1, name = 'machine', hostTiers = [], hostIdleWatts = 0, hostDollars = 0 } = machine
  const network = machine.network ?? description.entry.network ?? NETWORK
  const link = linkOf(description, catalogue, network, [...path, 'network'])
  const built = machine.devices.map((device, index) =>
    deviceOf(description, catalogue, device, [...path, 'devices', index]),
  )
  return Array.from({ length: count }, () => ({
    id: numbered(name, taken),
    devices: machine.devices.flatMap((device, index) =>
      Array.from({ length: device.count ?? 1 }, (): PlannedDevice => {
        const one = built[index]
        if (one === undefined) throw new InvalidInputError('The cluster file has changed while it was read.')
        return { ...one, deviceId: numbered(device.device, taken) }
      }),
    ),
    hostTiers,
    hostIdleWatts,
    hostDollars,
    network: link,
  }))
}

function numbered(name: string, taken: Map<string, number>): string {
  const number = taken.get(name) ?? 0
  taken.set(name, number + 1)
  return `${name}-${number}`
}

function deviceOf(
  description: ClusterDescription,
  catalogue: Catalogue,
  entry: DeviceEntry,
  path: Path,
): Omit<PlannedDevice, 'deviceId'> {
  const model = modelOn(description, catalogue, entry, path)
  const { decodesAtOnce = model.use.decodesAtOnce } = entry
  return {
    model,
    capabilities: entry.capabilities ?? preferredBy(model.device.kind),
    // With a second slot the KV of the next sequence arrives while one decodes.
    decodeSlots: entry.decodeSlots ?? Math.max(2, decodesAtOnce),
    decodesAtOnce,
    chunkTokens: entry.chunkTokens ?? CHUNK_TOKENS,
    sharedChunkTokens:
      entry.sharedChunkTokens ?? Math.min(SHARED_CHUNK_TOKENS, entry.chunkTokens ?? CHUNK_TOKENS),
    tierPolicy: entry.tierPolicy ?? 'static',
    link: linkOf(description, catalogue, entry.link ?? model.device.link, [...path, 'link']),
  }
}

/** GPUs prefill and FPGAs decode, as GLITCHES has it; either can do the other. */
function preferredBy(kind: string): readonly CapabilityName[] {
  return kind === 'fpga' ? ['decode', 'prefill'] : ['prefill', 'decode']
}

function modelOn(
  description: ClusterDescription,
  catalogue: Catalogue,
  { device, preset, use = {}, memories }: DeviceEntry,
  path: Path,
): DeviceModel {
  const { entry, yaml } = description
  const { weightBits, kvBits, ...rest } = use
  let built: DeviceModel
  try {
    built = deviceModel(catalogue, {
      device,
      model: entry.model,
      preset: preset ?? entry.preset,
      ...(weightBits === undefined ? {} : { weightBits }),
      ...(kvBits === undefined ? {} : { kvBits }),
    })
  } catch (error) {
    if (!(error instanceof InvalidInputError)) throw error
    const at = error.param === 'preset' && preset === undefined ? ['preset'] : [...path, 'device']
    throw yaml.error(at, error.message)
  }
  const used = { ...built, use: { ...built.use, ...rest } }
  if (memories === undefined) return used
  const known = built.kvMemories.map(({ name }) => name)
  memories.forEach((name, index) => {
    if (known.includes(name)) return
    throw unknown(description, [...path, 'memories', index], `memory for KV on ${device}`, name, known)
  })
  return { ...used, kvMemories: built.kvMemories.filter(({ name }) => memories.includes(name)) }
}

function linkOf(
  description: ClusterDescription,
  catalogue: Catalogue,
  entry: LinkEntry,
  path: Path,
): LinkSpec {
  const { like, ...changed } = typeof entry === 'string' ? { like: entry } : entry
  const link = catalogue.links.get(like)
  if (!link) throw unknown(description, path, 'link', like, [...catalogue.links.keys()])
  return { ...link, ...changed }
}

function unknown(
  { yaml }: ClusterDescription,
  path: Path,
  what: string,
  name: string,
  known: readonly string[],
): InvalidInputError {
  const hint = didYouMean(name, known) || `; there are ${known.join(', ')}`
  return yaml.error(path, `there is no ${what} ${name}${hint}.`)
}
