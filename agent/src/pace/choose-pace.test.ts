/** What settings ask for, and what a wrong one is told. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { expect, test } from 'vitest'
import { agentSettings } from '../settings.js'
import { choosePace } from './choose-pace.js'

function chosen(settings: Readonly<Record<string, unknown>>) {
  return choosePace(agentSettings.parse({ deviceId: 'gpu-0', ...settings }))
}

test('none is asked for', async () => {
  expect(await chosen({})).toBeUndefined()
})

test('a device of the catalogue with a model: its preset, memory and link', async () => {
  const pace = await chosen({ paceAs: 'u280', paceModel: 'llama-2-7b' })
  expect(pace?.preset).toBe('glitches')
  expect(pace?.deviceModel.use.decodesAtOnce).toBe(1)
  expect(pace?.deviceModel.kvMemories.map(({ name }) => name)).toContain('hbm')
  expect(pace?.link.bytesPerSecond).toBeGreaterThan(1e9)
  const shaped = await chosen({ paceAs: 'u280', paceModel: 'llama-2-7b', linkBytesPerSecond: 1e8 })
  expect(shaped?.link).toMatchObject({ id: pace?.link.id, bytesPerSecond: 1e8 })
})

test('without a preset, one that knows the device', async () => {
  const pace = await chosen({ paceAs: 'h100-sxm', paceModel: 'llama-2-7b' })
  expect(pace?.deviceModel.device.id).toBe('h100-sxm')
})

test('half a wish and a wrong name get a sentence that says what to write', async () => {
  const sentences: [Readonly<Record<string, unknown>>, RegExp][] = [
    [{ paceAs: 'u280' }, /paceAs is u280, but for which model is not said; set paceModel/],
    [{ paceModel: 'llama-2-7b' }, /paceModel says nothing without paceAs/],
    [{ paceAs: 'u290', paceModel: 'llama-2-7b' }, /no device u290; did you mean u280\./],
    [{ paceAs: 'u280', paceModel: 'llama-2-8b' }, /no model llama-2-8b; did you mean llama-2-7b\./],
    [{ paceAs: 'u280', paceModel: 'llama-2-7b', pacePreset: 'glitch' }, /no preset glitch/],
    [{ paceAs: 'u280', paceModel: 'llama-2-70b' }, /does not fit on u280/],
    [{ paceAs: 'u280', paceModel: 'llama-2-7b', catalogue: ['/nowhere.yaml'] }, /nowhere\.yaml/],
  ]
  for (const [settings, sentence] of sentences) {
    const refusal = chosen(settings)
    await expect(refusal).rejects.toThrow(InvalidInputError)
    await expect(refusal).rejects.toThrow(sentence)
  }
})
