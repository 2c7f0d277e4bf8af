/** A context for tests of studies: points are computed here, one after another, from the sources; nothing is shown. */
import { loadableFile } from '../points/built-file.js'
import type { Point, StudyContext } from '../study.js'

export function quietContext(signal: AbortSignal = new AbortController().signal): StudyContext {
  return {
    signal,
    say() {},
    progress() {},
    async points<Input, Result>(module: URL, inputs: readonly Input[]) {
      const { point } = (await import(loadableFile(module).href)) as { readonly point: Point<Input, Result> }
      const results: (Result | undefined)[] = []
      for (const input of inputs) results.push(signal.aborted ? undefined : await point(input, () => {}))
      return results
    },
  }
}
