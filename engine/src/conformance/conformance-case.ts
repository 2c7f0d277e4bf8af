/** What a conformance suite is made of. It knows no test framework: tests and `kvasir driver check` run it. */
import type { DeviceDriver, DriverModel, LoadedModelFacts } from '../device-driver.js'
import type { Numerics } from '../numerics.js'

export interface ConformanceCase<Context> {
  /** Goes on from the suite's name. */
  readonly name: string
  /** Kernels without which it is left out. */
  readonly needs?: readonly string[]
  /** Throws what is wrong. */
  readonly run: (context: Context) => Promise<void>
}

/** Cases that share what `open` makes; they run one after another, in any selection. */
export interface ConformanceSuite<Context = unknown> {
  readonly name: string
  open(target: ConformanceTarget): Promise<Context>
  /** Frees what `open` made; the device stays. */
  close(context: Context): Promise<void>
  readonly cases: readonly ConformanceCase<Context>[]
}

/** What is judged. */
export interface ConformanceTarget {
  readonly device: DeviceDriver
  /** A small model. */
  readonly model: string
  readonly numerics: Numerics
}

/** A target with the model loaded. */
export interface LoadedTarget extends ConformanceTarget {
  readonly driver: DriverModel
  readonly facts: LoadedModelFacts
}

export async function loadTarget(target: ConformanceTarget, kvBlocksMax: number): Promise<LoadedTarget> {
  const { device, model, numerics } = target
  const driver = await device.loadModel({ model, numerics, kvBlocksMax })
  return { ...target, driver, facts: driver.facts }
}

export function declares({ device }: Pick<ConformanceTarget, 'device'>, kernels: readonly string[]): boolean {
  const names = device.describe().kernels.map(({ name }) => name)
  return kernels.every((kernel) => names.includes(kernel))
}

/** Whether what is written through the wire and read again is what was there, to the bit. */
export function isWireLossless({ pool, wire }: Numerics): boolean {
  return pool === wire
}
