/**
 * Which processes make a local cluster and how each is started. Pure.
 *
 * Device ids are `gpu-0`, `fpga-0`, …; where the cluster joins a NATS that others use too,
 * they carry a prefix, since ids must differ in one cluster.
 */
import { InvalidInputError } from '@kvasir/runtime/errors'

export type AgentKind = 'host' | 'gpu' | 'fpga'

export interface ClusterWish {
  /** A model directory or `dummy:NAME`. */
  readonly model: string
  /** Loaded once the cluster serves, where memory suffices. */
  readonly furtherModels?: readonly string[]
  /** Numerics of gpu and fpga agents, and of requests that ask for none. */
  readonly profile?: string | undefined
  readonly gpus: number
  readonly fpgas: number
  /** Port of the HTTP API; taken by others is an error. Undefined: 8080 or a free one. */
  readonly port: number | undefined
  /** Rate that every agent's link is held to, bytes a second; undefined: as fast as it goes. */
  readonly linkBytesPerSecond: number | undefined
  /** Bytes for KV in the HBM of each gpu and fpga agent, the DDR of each fpga agent, the host agent's DRAM. */
  readonly hbmBytes?: number | undefined
  readonly ddrBytes?: number | undefined
  readonly hostBytes?: number | undefined
  /** What agents keep pace with; undefined: with nothing. */
  readonly pace?: PaceWish | undefined
  /** Prefix of device ids, '' for none. */
  readonly devicePrefix: string
  /** Further settings of agents, by kind. */
  readonly agentFlags?: Readonly<Partial<Record<AgentKind, readonly string[]>>>
}

/** Names in the catalogue. */
export interface PaceWish {
  /** Device of each kind that is paced. */
  readonly devices: Readonly<Partial<Record<Exclude<AgentKind, 'host'>, string>>>
  readonly model: string
  readonly preset?: string | undefined
  /** Files that add to the catalogue. */
  readonly catalogue: readonly string[]
}

export interface PlannedProcess {
  readonly name: string
  /** Script below the project's root. */
  readonly script: string
  readonly args: readonly string[]
}

export interface ClusterPlan {
  readonly coordinator: PlannedProcess
  readonly agents: readonly PlannedProcess[]
}

const portPreferred = 8080

/** @throws InvalidInputError where nothing could prefill or decode */
export function planCluster(wish: ClusterWish, natsUrl: string): ClusterPlan {
  if (wish.gpus + wish.fpgas === 0) {
    throw new InvalidInputError('A cluster needs at least one gpu or fpga agent: raise --gpus or --fpgas.')
  }
  const port = wish.port === undefined ? ['--port-preferred', portPreferred] : ['--port', wish.port]
  const profile = wish.profile === undefined ? [] : ['--profile', wish.profile]
  const computes = ['--model', wish.model, ...profile]
  const agents = [
    agent('host', 0, []),
    ...numbered(wish.gpus, (index) => agent('gpu', index, computes)),
    ...numbered(wish.fpgas, (index) => agent('fpga', index, computes)),
  ]
  return {
    coordinator: {
      name: 'coordinator',
      script: 'coordinator/dist/main.js',
      args: ['--nats', natsUrl, '--model', wish.model, ...profile, ...port.map(String)],
    },
    agents,
  }

  function agent(kind: AgentKind, index: number, args: readonly string[]): PlannedProcess {
    const link = flag('--link-bytes-per-second', wish.linkBytesPerSecond)
    const name = `${kind}-${index}`
    return {
      name,
      script: `${kind}-agent/dist/main.js`,
      args: [
        '--nats',
        natsUrl,
        '--device-id',
        `${wish.devicePrefix}${name}`,
        ...args,
        ...link,
        ...flag('--tier-bytes', kind === 'host' ? wish.hostBytes : wish.hbmBytes),
        ...flag('--ddr-bytes', kind === 'fpga' ? wish.ddrBytes : undefined),
        ...(kind === 'host' ? [] : paceFlags(wish.pace, kind)),
        ...(wish.agentFlags?.[kind] ?? []),
      ],
    }
  }
}

function paceFlags(pace: PaceWish | undefined, kind: Exclude<AgentKind, 'host'>): string[] {
  const device = pace?.devices[kind]
  if (pace === undefined || device === undefined) return []
  const preset = pace.preset === undefined ? [] : ['--pace-preset', pace.preset]
  const files = pace.catalogue.flatMap((file) => ['--catalogue', file])
  return ['--pace-as', device, '--pace-model', pace.model, ...preset, ...files]
}

function flag(name: string, value: number | undefined): string[] {
  return value === undefined ? [] : [name, String(value)]
}

function numbered<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index))
}
