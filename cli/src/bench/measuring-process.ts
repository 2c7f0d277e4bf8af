/**
 * A process that measures something whenever it is asked and is idle otherwise: thread pools of two engines
 * in one process would disturb each other, and so would two that work at the same time.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { withDeadline } from '@kvasir/runtime/deferred'
import { InternalError, UnavailableError } from '@kvasir/runtime/errors'

const answerMsMax = 600_000

export interface MeasuringProcess<Question extends object, Answer> {
  /** One at a time. */
  measure(question: Question): Promise<Answer>
  close(): void
}

/** What a process sends instead of an answer; its message is shown as it stands. */
interface Failure {
  readonly failed: string
}

/**
 * `script`: a file of this folder without its ending; it calls `answerQuestions`, of the same types. Throws
 * UnavailableError with its sentence where it cannot start.
 */
export async function startMeasuringProcess<Question extends object, Answer>(
  script: string,
  args: readonly string[] = [],
): Promise<MeasuringProcess<Question, Answer>> {
  const path = fileURLToPath(new URL(`../../dist/bench/${script}.js`, import.meta.url))
  const child = fork(path, args)
  const answer = async (): Promise<unknown> => {
    const settled = new AbortController()
    const listen = { signal: settled.signal }
    const ended = once(child, 'exit', listen).then(([code]) => {
      throw new InternalError(`The process ${script} ended with code ${code}.`)
    })
    try {
      const first = Promise.race([once(child, 'message', listen), ended])
      const [message] = await withDeadline(first, answerMsMax, `waiting for ${script}`)
      if (isFailure(message)) throw new UnavailableError(message.failed)
      return message
    } finally {
      settled.abort()
    }
  }
  try {
    await answer()
  } catch (error) {
    child.kill()
    throw error
  }
  return {
    async measure(question) {
      const answered = answer()
      child.send(question)
      // Both ends are of one version.
      return (await answered) as Answer
    },
    close: () => void child.kill(),
  }
}

/** The other end: says that it is ready once `prepare` is done, then answers until its parent goes away. */
export async function answerQuestions<Question extends object, Answer>(
  prepare: () => Promise<(question: Question) => Promise<Answer>>,
): Promise<void> {
  process.on('disconnect', () => process.exit())
  try {
    const measure = await prepare()
    process.on('message', (question: Question) => {
      measure(question).then((answer) => process.send?.(answer), fail)
    })
    process.send?.('ready')
  } catch (error) {
    fail(error)
  }
}

function fail(error: unknown): void {
  process.send?.({ failed: error instanceof Error ? error.message : String(error) } satisfies Failure)
}

function isFailure(message: unknown): message is Failure {
  return typeof message === 'object' && message !== null && 'failed' in message
}
