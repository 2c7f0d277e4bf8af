/**
 * What the catalogue knows of devices, links and models: published numbers as plain values in SI units.
 *
 * S1 Every number has a source, by its path in the entry, such as `compute.fp16`: `sources` of the entry. What is
 *    somebody's arithmetic or memory says so there.
 * S2 Rates are dense ones; nothing here is measured by this project.
 */

export const DEVICE_KINDS = ['gpu', 'fpga', 'cpu', 'npu'] as const
export type DeviceKind = (typeof DEVICE_KINDS)[number]

export const PRECISIONS = ['fp64', 'fp32', 'tf32', 'fp16', 'bf16', 'fp8', 'int8', 'int4', 'fp4'] as const
export type PrecisionId = (typeof PRECISIONS)[number]

/** By path in the entry. */
export type Sources = Readonly<Record<string, string>>

export interface MemorySpec {
  /** Unique on the device: onchip, hbm, ddr, lpddr, dram … */
  readonly name: string
  readonly bytes: number
  readonly bytesPerSecond: number
}

export interface DeviceSpec {
  /** As people name it on a command line, such as a100-80-pcie. */
  readonly id: string
  readonly name: string
  readonly kind: DeviceKind
  /** Peak operations a second, dense; a multiply-add counts as two. What is missing is not supported or not known. */
  readonly compute: Readonly<Partial<Record<PrecisionId, number>>>
  /** Memories that can hold KV, nearest first. */
  readonly memories: readonly MemorySpec[]
  /** On-chip memory, bytes, where known: too small for KV of whole prompts, of use to kernels. */
  readonly onchipBytes?: number
  readonly onchipBytesPerSecond?: number
  /** Id of the link that joins it to its machine. */
  readonly link: string
  /** At most (TDP), and when idle; absent where nobody publishes it. */
  readonly maxWatts?: number
  readonly idleWatts?: number
  readonly dollars?: number
  readonly sources: Sources
}

export interface LinkSpec {
  readonly id: string
  readonly name: string
  /** What was achieved, one direction; `rawBytesPerSecond` is what the standard says. */
  readonly bytesPerSecond: number
  readonly rawBytesPerSecond: number
  readonly latencyUs: number
  readonly sources: Sources
}

export interface ModelSpec {
  readonly id: string
  readonly name: string
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly feedForward: number
  readonly vocabulary: number
  readonly tiedEmbeddings: boolean
  /** All of them, and those that one token uses (fewer in a mixture of experts). */
  readonly parameters: number
  readonly activeParameters: number
  /** Of those, in the embedding table, which a step looks up and does not multiply with. */
  readonly embeddingParameters: number
  /** In a mixture of experts: how many a layer has, and how many of them a token uses. */
  readonly experts?: number
  readonly activeExperts?: number
  /** Values of KV a token over all layers. */
  readonly kvValuesPerToken: number
  readonly contextTokensMax: number
  readonly sources: Sources
}

/**
 * How well a kind of software uses a device: published utilisations, and in which numbers it computes. One device
 * has several: a Hugging Face baseline is not a vLLM-class one.
 */
export interface PresetSpec {
  /** Such as glitches, vllm, flightllm. */
  readonly id: string
  readonly name: string
  /** By device id. */
  readonly devices: Readonly<Record<string, DeviceUse>>
  readonly sources: Sources
}

export interface DeviceUse {
  /** Precision whose peak prefill is measured against. */
  readonly computePrecision: PrecisionId
  /** Shares of the peak, 0 to 1. */
  readonly prefillCompute: number
  readonly decodeBandwidth: number
  /** Bits of a weight as stored, scales included: 16, 4.3 … */
  readonly weightBits: number
  /** Bits of a KV value in the device's memory, scales left out. */
  readonly kvBits: number
  /**
   * How much faster than that a decode step is, by tokens in the sequence, ascending; linear in between, flat beyond.
   * Published speed-ups such as that of merged loads; absent: 1.
   */
  readonly decodeSpeedups?: readonly { readonly contextTokens: number; readonly factor: number }[]
  /** Power while it prefills and decodes; absent: the device's maximum. */
  readonly prefillWatts?: number
  readonly decodeWatts?: number
  /** Sequences that it decodes in one step. */
  readonly decodesAtOnce: number
  /** Prompts and decodes share a step, whose time is the longer of arithmetic and reading; else they follow each other. */
  readonly fusesSteps: boolean
  readonly sources: Sources
}

export interface Catalogue {
  readonly devices: ReadonlyMap<string, DeviceSpec>
  readonly links: ReadonlyMap<string, LinkSpec>
  readonly models: ReadonlyMap<string, ModelSpec>
  readonly presets: ReadonlyMap<string, PresetSpec>
}
