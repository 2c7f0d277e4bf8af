/** The conformance suites as tests. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import { mapSuites } from '../conformance/conformance.js'
import type { ConformanceSuite, ConformanceTarget } from '../conformance/conformance-case.js'
import { declares } from '../conformance/conformance-case.js'
import type { DeviceDriver } from '../device-driver.js'
import { EXACT, type Numerics } from '../numerics.js'

export interface DriverUnderTest {
  create(): DeviceDriver | Promise<DeviceDriver>
  /** A small model. */
  readonly model: string
  readonly numerics?: Numerics
}

/** Registers all suites for one driver, each with a device of its own; it must declare every kernel. */
export function testConformance(name: string, under: DriverUnderTest): void {
  describe(`${name} as a device driver`, () => {
    mapSuites((suite) => testSuite(suite, under))
  })
}

export function testSuite<Context>(
  suite: ConformanceSuite<Context>,
  { create, model, numerics = EXACT }: DriverUnderTest,
): void {
  describe(suite.name, () => {
    let target: ConformanceTarget
    let context: Context
    beforeAll(async () => {
      target = { device: await create(), model, numerics }
      context = await suite.open(target)
    })
    afterAll(async () => {
      await suite.close(context)
      await target.device.close()
    })
    for (const { name, needs = [], run } of suite.cases) {
      it(name, async () => {
        if (!declares(target, needs)) throw new Error(`The driver lacks one of ${needs.join(', ')}.`)
        await run(context)
      })
    }
  })
}
