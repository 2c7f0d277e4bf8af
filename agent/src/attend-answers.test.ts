import type { DriverModel } from '@kvasir/engine/device-driver'
import type { KernelInput, KernelOutput } from '@kvasir/engine/kernels'
import type { AttendQuery } from '@kvasir/proto/kvasir/memory/v1/memory'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { describe, expect, it } from 'vitest'
import { AttendAnswers } from './attend-answers.js'
import { bytesOf, floatsOf, uintsOf } from './attend-bytes.js'

const model = { layers: 2, heads: 2, kvHeads: 2, headDim: 2 }
type Input = KernelInput<'choose-pages'>
type Output = KernelOutput<'choose-pages'>

/** A device that chooses what it is told to, and what it was asked. */
function answers(chosen: readonly number[][], mode: 'partial' | 'indices' = 'partial') {
  const inputs: Input[] = []
  let blocks = [7, 5, 9]
  const output = (input: Input): Output => ({
    chosen: chosen.map((pages) => Uint32Array.from(pages)),
    partial: input.attend ? { output: input.q, max: Float32Array.of(1), sum: Float32Array.of(2) } : undefined,
    mass: input.attend
      ? chosen.map((pages) => new Float32Array(pages.length).fill(1 / pages.length))
      : undefined,
    relevancyUs: 10.4,
    retrievalUs: 2,
    applyUs: 3,
  })
  const runKernel = (async (_name: string, input: Input) => {
    inputs.push(input)
    return output(input)
  }) as unknown as DriverModel['runKernel']
  const made = new AttendAnswers({
    driver: { runKernel },
    model,
    mode,
    pages: 3,
    blocks: () => [...blocks, 11],
  })
  return { made, inputs, move: (to: number[]) => (blocks = to) }
}

const query = (id: number, layer: number, changes: Partial<AttendQuery> = {}): AttendQuery => ({
  id: BigInt(id),
  layer,
  q: bytesOf(Float32Array.of(1, 2, 3, 4)),
  pages: 2,
  rivals: bytesOf(Float32Array.of(0.5, 0.25)),
  ...changes,
})

describe('an attention query', () => {
  it('reaches the device as it was asked, with the pages where they are now', async () => {
    const { made, inputs, move } = answers([[0, 1], [2]])
    const answer = await made.answer(query(1, 0))
    move([20, 21, 22])
    await made.answer(query(2, 1, { rivals: Buffer.alloc(0), pages: 0 }))
    expect(inputs[0]).toEqual({
      layer: 0,
      q: Float32Array.of(1, 2, 3, 4),
      blocks: Uint32Array.of(7, 5, 9),
      pages: 2,
      rivals: Float32Array.of(0.5, 0.25),
      attend: true,
    })
    expect(inputs[1]).toMatchObject({ blocks: Uint32Array.of(20, 21, 22), pages: 0 })
    expect(answer).toMatchObject({ id: 1n, chosen: [2, 1], relevancyUs: 10, retrievalUs: 2, applyUs: 3 })
    expect(floatsOf(answer.output)).toEqual(Float32Array.of(1, 2, 3, 4))
    expect(answer.pages.length).toBe(0)
  })

  it('is answered with page numbers where there is no K and V', async () => {
    const { made, inputs } = answers([[0, 1], [2]], 'indices')
    const answer = await made.answer(query(1, 0))
    expect(inputs[0]).toMatchObject({ attend: false })
    expect(uintsOf(answer.pages)).toEqual(Uint32Array.of(0, 1, 2))
    expect(answer.output.length).toBe(0)
  })

  it('that is none is refused before the device sees it', async () => {
    const { made, inputs } = answers([[], []])
    for (const wrong of [
      query(2, 0),
      query(1, 2),
      query(1, 0, { q: Buffer.alloc(0) }),
      query(1, 0, { q: Buffer.alloc(12) }),
      query(1, 0, { rivals: Buffer.alloc(12) }),
    ]) {
      await expect(made.answer(wrong)).rejects.toBeInstanceOf(InvalidInputError)
    }
    expect(inputs).toEqual([])
    await made.answer(query(1, 0))
    await expect(made.answer(query(1, 1))).rejects.toThrow('id is 1 instead of 2')
  })

  it('counts, and at the last layer says what the step read of each page', async () => {
    const { made } = answers([[0, 1], [1]])
    await made.answer(query(1, 0))
    expect(made.takeStep()).toBeUndefined()
    await made.answer(query(2, 1))
    const step = { reads: Float32Array.of(0.5, 1, 0), mass: Float32Array.of(0.25, 0.75, 0) }
    expect(made.takeStep()).toEqual(step)
    expect(made.takeStep()).toBeUndefined()
    await made.answer(query(3, 0))
    await made.answer(query(4, 1))
    expect(made.takeStep()).toEqual(step)
    expect(made.figures).toMatchObject({ calls: 4, pages: 24, pagesRead: 12, retrievalUs: 8, applyUs: 12 })
  })
})
