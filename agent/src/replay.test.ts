/** A sequence that lost its device goes on elsewhere with the KV that sparse attention gave it, not with that of a dense prefill. */
import { writeTestModel } from '@kvasir/engine/testing/test-model'
import { AttentionMethod, type DecodeRequest } from '@kvasir/proto/kvasir/inference/v1/inference'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { AttendingDevice } from './testing/attending-devices.js'
import { promptOf, readDecode } from './testing/test-devices.js'

const attention = { method: AttentionMethod.PAGE_BOUNDS, budgetTokens: 32, budgetShare: 0 }
const maxTokens = 24
const emitted = 10
const prompt = promptOf(150, 3)
let device: AttendingDevice

beforeAll(async () => {
  device = await AttendingDevice.start('fpga-0', writeTestModel())
})
afterAll(() => device.stop())

let requests = 0
/** Tokens with their log probabilities. */
async function generate(tokens: readonly number[], request: Partial<DecodeRequest> = {}) {
  requests += 1
  const answers: { index: number; id: number; logprob: number }[] = []
  const stream = await device.generate(`request-${requests}`, tokens, { maxTokens, attention, request })
  for await (const { event } of stream) {
    if (event?.$case !== 'tokens') continue
    answers.push(...event.value.tokens.map(({ index, id, logprob }) => ({ index, id, logprob })))
  }
  return answers
}

it('replayed tokens give what follows them to the bit, which a prefill of them does not', async () => {
  const undisturbed = await generate(prompt)
  const known = undisturbed.slice(0, emitted).map(({ id }) => id)
  const replayed = await generate(prompt, { replay: { tokens: known } })
  expect(replayed).toEqual(undisturbed)
  const prefilled = await generate([...prompt, ...known], { firstIndex: emitted })
  expect(prefilled.map(({ index }) => index)).toEqual(undisturbed.slice(emitted).map(({ index }) => index))
  expect(prefilled[0]?.logprob).not.toBe(undisturbed[emitted]?.logprob)
})

it('replayed tokens are taken as they stand, whatever would be sampled', async () => {
  const undisturbed = await generate(prompt)
  const other = undisturbed.slice(0, emitted).map(({ id }) => (id + 1) % device.model.vocabularySize)
  const replayed = await generate(prompt, { replay: { tokens: other } })
  expect(replayed.slice(0, emitted).map(({ id }) => id)).toEqual(other)
})

it('a replay that leaves nothing to generate, or does not begin with the first token, is refused', async () => {
  const known = { tokens: Array.from({ length: maxTokens }, (_, i) => i) }
  await expect(generate(prompt, { replay: known })).rejects.toBeInstanceOf(InvalidInputError)
  const late = generate(prompt, { replay: { tokens: [1] }, firstIndex: 1 })
  await expect(late).rejects.toBeInstanceOf(InvalidInputError)
  // The device is as before.
  expect(await readDecode(await device.generate('after', prompt, { maxTokens: 2, attention }))).toMatchObject(
    { indices: [0, 1] },
  )
})
