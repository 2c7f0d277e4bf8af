/** Measures the machine's limit when its parent asks (machine-limit.ts), in a process of its own. */
import { MachineLimit } from '@kvasir/engine/machine-limit'
import type { LimitRates } from './machine-limit.js'
import { answerQuestions } from './measuring-process.js'

await answerQuestions<object, LimitRates>(async () => {
  const limit = await MachineLimit.create()
  return async () => {
    const vectorBytesPerS = await limit.vectorBytesPerS()
    return { vectorBytesPerS, matrixFlopPerS: await limit.matrixFlopPerS() }
  }
})
