/** Bytes of one block over all layers in a device's pool, for tests that size tiers in blocks. */
import { EXACT } from '@kvasir/engine/numerics'
import type { DriverFactory } from '../definition.js'

export async function poolBlockBytes({ create }: DriverFactory, model: string): Promise<number> {
  const device = await create({})
  try {
    return (await device.inspectModel({ model, numerics: EXACT })).poolBlockBytes
  } finally {
    await device.close()
  }
}
