/** What --pace means, and what a wrong one is told before anything starts. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { expect, test } from 'vitest'
import { paceWish } from './pace-options.js'

const paceModel = 'llama-2-7b'

test('one device for both kinds, or one for each', async () => {
  expect(await paceWish({})).toBeUndefined()
  expect((await paceWish({ pace: ['a100-80-pcie'], paceModel }))?.devices).toEqual({
    gpu: 'a100-80-pcie',
    fpga: 'a100-80-pcie',
  })
  const wish = await paceWish({ pace: ['gpu=v100s', 'fpga=u280'], paceModel, pacePreset: 'glitches' })
  expect(wish).toEqual({
    devices: { gpu: 'v100s', fpga: 'u280' },
    model: paceModel,
    preset: 'glitches',
    catalogue: [],
  })
})

test('a wish that cannot be met gets one sentence', async () => {
  for (const [options, sentence] of [
    [{ pace: ['u280'] }, /--pace needs --pace-model/],
    [{ paceModel }, /--pace-model needs --pace/],
    [{ pace: ['npu=u280'], paceModel }, /--pace is "npu=u280"; give gpu=DEVICE/],
    [{ pace: ['fpga='], paceModel }, /--pace is "fpga="/],
    [{ pace: ['v100s', 'gpu=u280'], paceModel }, /two devices for gpu agents, v100s and u280/],
    [{ pace: ['gpu=v100'], paceModel }, /no device v100; did you mean v100s\./],
    [{ pace: ['u280'], paceModel: 'llama-2-70b' }, /does not fit on u280/],
  ] as const) {
    const refusal = paceWish(options)
    await expect(refusal).rejects.toThrow(InvalidInputError)
    await expect(refusal).rejects.toThrow(sentence)
  }
})
