/** The emulated FPGA as a process of its own does what every driver must. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startDriver } from '@kvasir/agent/socket-driver/open-driver'
import { EXACT, numericsName, PAPER_QUANTISED } from '@kvasir/engine/numerics'
import { testConformance } from '@kvasir/engine/testing/register-conformance'
import { afterAll } from 'vitest'

const script = fileURLToPath(new URL('../dist/emulated-driver.js', import.meta.url))
const home = mkdtempSync(join(tmpdir(), 'kvasir-test-'))
process.env.KVASIR_HOME = home
afterAll(() => rmSync(home, { recursive: true, force: true }))

for (const numerics of [EXACT, PAPER_QUANTISED]) {
  testConformance(`The emulated FPGA in a process of its own, ${numericsName(numerics)},`, {
    create: () => startDriver(`"${process.execPath}" "${script}" --threads 1`, 'test-fpga'),
    model: 'dummy:llama-tiny',
    numerics,
  })
}
