import { expect, it } from 'vitest'
import { parseModelConfig } from './model-config.js'
import { rotaryTables, scaledFrequency } from './rotary.js'
import { testConfig } from './testing/test-model.js'

it('holds cosines and sines of position times frequency', () => {
  const config = parseModelConfig(testConfig, 'test-model')
  const { cos, sin } = rotaryTables(config, 100)
  const at = 99 * 16 + 3
  const angle = 99 * 10_000 ** (-6 / 32)
  expect([cos[at], sin[at]]).toEqual([expect.closeTo(Math.cos(angle), 4), expect.closeTo(Math.sin(angle), 4)])
})

it('stretches long waves as Llama 3 does, keeps short ones, and goes over smoothly', () => {
  const scaling = {
    kind: 'llama3',
    factor: 8,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalContextTokens: 8192,
  } as const
  const waves = (turns: number) => (turns * 2 * Math.PI) / 8192
  expect(scaledFrequency(1, scaling)).toBe(1)
  expect(scaledFrequency(waves(0.5), scaling)).toBe(waves(0.5) / 8)
  expect(scaledFrequency(waves(4), scaling)).toBeCloseTo(waves(4), 12)
  expect(scaledFrequency(waves(1), scaling)).toBeCloseTo(waves(1) / 8, 12)
  // Half-way between 1 and 4 turns: the mean of stretched and kept.
  expect(scaledFrequency(waves(2.5), scaling)).toBeCloseTo((waves(2.5) * (1 + 1 / 8)) / 2, 12)
})

it('stretches every wave where scaling is linear', () => {
  expect([1, 0.001].map((frequency) => scaledFrequency(frequency, { kind: 'linear', factor: 4 }))).toEqual([
    0.25, 0.00025,
  ])
})
