/** The form of a cluster file, field by field; what each means is in docs/studies.md. */
import { z } from 'zod'

const NUMBER_MAX = 1e18

const name = z
  .string('it must be a name')
  .regex(/^[\w.-]{1,64}$/, 'it must be a name of letters, digits, dots, - and _')
const share = z.number('it must be a number').gt(0, 'it must be above 0').max(1, 'it must be at most 1')
const positive = z
  .number('it must be a number')
  .gt(0, 'it must be above 0')
  .max(NUMBER_MAX, 'it is too large to be true')
const notNegative = z
  .number('it must be a number')
  .min(0, 'it must be 0 or more')
  .max(NUMBER_MAX, 'it is too large to be true')
const count = (max: number) =>
  z
    .int('it must be a whole number')
    .min(1, 'it must be 1 or more; leave the entry out for none')
    .max(max, `it must be at most ${max}`)

const link = z.union(
  [
    name,
    z.strictObject({
      like: name,
      bytesPerSecond: positive.exactOptional(),
      latencyUs: notNegative.exactOptional(),
    }),
  ],
  'it must be the name of a link, or like: with what differs (bytesPerSecond above 0, latencyUs of 0 or more)',
)

const use = z.strictObject({
  prefillCompute: share.exactOptional(),
  decodeBandwidth: share.exactOptional(),
  weightBits: positive.exactOptional(),
  kvBits: positive.exactOptional(),
  prefillWatts: positive.exactOptional(),
  decodeWatts: positive.exactOptional(),
  fusesSteps: z.boolean('it must be true or false').exactOptional(),
})

const device = z.strictObject({
  device: name,
  count: count(10_000).exactOptional(),
  capabilities: z
    .array(
      z.enum(['prefill', 'decode'], 'it must be prefill or decode'),
      'it must be a list such as [decode, prefill]',
    )
    .min(1, 'it must name prefill, decode or both')
    .exactOptional(),
  preset: name.exactOptional(),
  decodeSlots: count(100_000).exactOptional(),
  decodesAtOnce: count(100_000).exactOptional(),
  chunkTokens: count(1_000_000).exactOptional(),
  sharedChunkTokens: count(1_000_000).exactOptional(),
  tierPolicy: z
    .enum(['static', 'reactive', 'balanced'], 'it must be static, reactive or balanced')
    .exactOptional(),
  memories: z
    .array(name, 'it must be a list of names of memories')
    .min(1, 'it must name a memory')
    .exactOptional(),
  link: link.exactOptional(),
  use: use.exactOptional(),
})

const hostTier = z.strictObject({ name, bytes: positive, bytesPerSecond: positive })

const machine = z.strictObject({
  name: name.exactOptional(),
  count: count(10_000).exactOptional(),
  network: link.exactOptional(),
  hostTiers: z.array(hostTier, 'it must be a list of memories').exactOptional(),
  hostIdleWatts: notNegative.exactOptional(),
  hostDollars: notNegative.exactOptional(),
  devices: z.array(device, 'it must be a list of devices').min(1, 'it must have a device'),
})

export const clusterSchema = z.strictObject({
  name: z.string('it must be a text').max(100, 'it must have at most 100 characters').exactOptional(),
  model: name,
  preset: name,
  profile: z.enum(['exact', 'paper'], 'it must be exact or paper').exactOptional(),
  blockTokens: count(65_536).exactOptional(),
  mergeLayers: count(1_000).exactOptional(),
  messageMs: notNegative.exactOptional(),
  network: link.exactOptional(),
  machines: z.array(machine, 'it must be a list of machines').min(1, 'it must have a machine'),
})

export type ClusterEntry = z.output<typeof clusterSchema>
export type MachineEntry = z.output<typeof machine>
export type DeviceEntry = z.output<typeof device>
export type LinkEntry = z.output<typeof link>
