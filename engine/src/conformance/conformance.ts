/** All that a device driver must do, and what it may: the suites in their order, and how they are run. */
import { KvasirError } from '@kvasir/runtime/errors'
import { bm25Suite } from './bm25-suite.js'
import { type ConformanceSuite, type ConformanceTarget, declares } from './conformance-case.js'
import { kernelSuite } from './kernel-suite.js'
import { sparseSuite } from './sparse-suite.js'
import { stepSuite } from './step-suite.js'

export type CaseResult = 'passed' | 'failed' | 'skipped'

export interface JudgedCase {
  readonly suite: string
  readonly name: string
  readonly result: CaseResult
  /** What is wrong, or which kernels it lacks; empty where it passed. */
  readonly reason: string
  readonly durationMs: number
}

/** What `visit` makes of each suite, whose context is of its own kind. */
export function mapSuites<T>(visit: <Context>(suite: ConformanceSuite<Context>) => T): T[] {
  return [visit(stepSuite), visit(sparseSuite), visit(kernelSuite), visit(bm25Suite)]
}

/**
 * Runs every case that the device has the kernels for, one after another. Never throws.
 * @param open a device that is ready; called again after a case in which it was lost
 */
export async function judgeDriver(
  open: () => Promise<ConformanceTarget>,
  tell: (judged: JudgedCase) => void,
): Promise<JudgedCase[]> {
  const judged: JudgedCase[] = []
  let target: ConformanceTarget | undefined
  let isLost = false
  let openFailure: unknown
  const opened = async () => {
    if (target !== undefined && !isLost) return target
    await target?.device.close()
    target = undefined
    // One that does not come back does not for the next case either.
    if (openFailure !== undefined) throw openFailure
    target = await open().catch((thrown: unknown) => {
      openFailure = thrown
      throw thrown
    })
    isLost = false
    void target.device.lost.then(() => {
      isLost = true
    })
    return target
  }

  const add = (suite: string, name: string, result: CaseResult, reason: string, sinceMs: number) => {
    const durationMs = Math.round(performance.now() - sinceMs)
    const one = { suite, name, result, reason, durationMs }
    judged.push(one)
    tell(one)
  }

  const judge = async <Context>(suite: ConformanceSuite<Context>) => {
    let context: { readonly of: ConformanceTarget; readonly value: Context } | undefined
    for (const { name, needs = [], run } of suite.cases) {
      const sinceMs = performance.now()
      try {
        const now = await opened()
        if (!declares(now, needs)) {
          const lacking = needs.filter((kernel) => !declares(now, [kernel]))
          add(suite.name, name, 'skipped', `needs ${lacking.join(', ')}`, sinceMs)
          continue
        }
        if (context?.of !== now) context = { of: now, value: await suite.open(now) }
        await run(context.value)
        add(suite.name, name, 'passed', '', sinceMs)
      } catch (thrown) {
        add(suite.name, name, 'failed', reasonOf(thrown), sinceMs)
      }
    }
    if (context !== undefined && !isLost) await suite.close(context.value).catch(() => {})
  }
  for (const judgeSuite of mapSuites((suite) => () => judge(suite))) await judgeSuite()
  await target?.device.close()
  return judged
}

/** What was wrong in the first place: a property's error has it as its cause. */
export function reasonOf(thrown: unknown): string {
  const hasCause =
    thrown instanceof Error && thrown.cause instanceof Error && !(thrown instanceof KvasirError)
  if (hasCause) return reasonOf(thrown.cause)
  return thrown instanceof Error ? thrown.message : String(thrown)
}
