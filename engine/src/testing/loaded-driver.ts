/** A device with one model in profile exact, for tests that need no more. */
import type { DeviceDriver, DriverModel } from '../device-driver.js'
import { EXACT, type Numerics } from '../numerics.js'
import { createOrtDriver } from '../ort-driver.js'
import type { ComputeOptions } from '../ort-session.js'

export type LoadedDriver = DriverModel & Pick<DeviceDriver, 'close' | 'describe' | 'lost'>

/** The caller closes it. */
export async function loadedDriver(
  model: string,
  kvBlocksMax: number,
  options: ComputeOptions & { readonly numerics?: Numerics } = {},
): Promise<LoadedDriver> {
  const { numerics = EXACT, ...rest } = options
  const { close, describe, lost, loadModel } = createOrtDriver(rest)
  return { ...(await loadModel({ model, numerics, kvBlocksMax })), close, describe, lost }
}
