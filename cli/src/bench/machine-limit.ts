/**
 * The machine's limit, measured between rounds of a bench by a process that is idle otherwise: a process has
 * one thread with ONNX Runtime, and that of the bench's own is the engine's.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { InternalError } from '@kvasir/runtime/errors'

export interface LimitRates {
  /** One row times a large matrix: bytes of the matrix. */
  readonly vectorBytesPerS: number
  /** Many rows times a large matrix. */
  readonly matrixFlopPerS: number
}

const answerMsMax = 120_000

export interface MachineLimitProcess {
  measure(): Promise<LimitRates>
  close(): void
}

export async function startMachineLimit(): Promise<MachineLimitProcess> {
  const script = fileURLToPath(new URL('../../dist/bench/limit-process.js', import.meta.url))
  const child = fork(script)
  const answer = async (): Promise<unknown> => {
    const signal = AbortSignal.timeout(answerMsMax)
    const ended = once(child, 'exit', { signal }).then(([code]) => {
      throw new InternalError(`The process that measures the machine's limit ended with code ${code}.`)
    })
    const [message] = await Promise.race([once(child, 'message', { signal }), ended])
    return message
  }
  await answer()
  return {
    async measure() {
      const answered = answer()
      child.send('measure')
      // Both ends are of one version.
      return (await answered) as LimitRates
    },
    close: () => void child.kill(),
  }
}
