/**
 * What a device can do: what its kind does, less what its driver lacks the kernels for.
 *
 * So a driver with a step and nothing else makes a device that prefills and decodes, and is never asked for
 * more; nobody has to say so twice.
 */
import type { DeviceDriver, DriverDescription } from '@kvasir/engine/device-driver'
import { Capability } from '@kvasir/proto/kvasir/capability/v1/capability'
import { UnsupportedError } from '@kvasir/runtime/errors'
import type { AttentionRequest } from './offload-request.js'

/** Kernels without which a device does not have a capability. */
const NEEDED: Readonly<Partial<Record<Capability, readonly string[]>>> = {
  [Capability.PREFILL]: ['step'],
  [Capability.DECODE]: ['step'],
  [Capability.ATTEND]: ['choose-pages'],
  [Capability.RETRIEVE]: ['bm25-load', 'bm25-unload', 'bm25-search'],
}

/** In the order in which the kind has them. */
export function capabilitiesOf(
  capabilities: readonly Capability[],
  driver: DeviceDriver | undefined,
): readonly Capability[] {
  if (driver === undefined) return capabilities
  const { kernels } = driver.describe()
  return capabilities.filter((capability) => has({ kernels }, NEEDED[capability] ?? []))
}

/** Throws UnsupportedError for attention to some of the pages, or with another device, where the driver knows neither. */
export function checkAttentionAble(
  driver: DeviceDriver,
  { budget, offload }: Pick<AttentionRequest, 'budget' | 'offload'>,
): void {
  if ((budget === undefined && offload === undefined) || has(driver.describe(), ['page-scores'])) return
  throw new UnsupportedError(
    'This device attends to all pages by itself alone; choose one with the kernel page-scores.',
  )
}

function has({ kernels }: Pick<DriverDescription, 'kernels'>, needed: readonly string[]): boolean {
  return needed.every((name) => kernels.some((kernel) => kernel.name === name))
}
