/** Measures the machine's limit when its parent asks (machine-limit.ts), in a process of its own. */
import { MachineLimit } from '@kvasir/engine/machine-limit'

const limit = await MachineLimit.create()
process.on('disconnect', () => process.exit())
process.on('message', async () => {
  const vectorBytesPerS = await limit.vectorBytesPerS()
  process.send?.({ vectorBytesPerS, matrixFlopPerS: await limit.matrixFlopPerS() })
})
process.send?.('ready')
