import { describe, expect, test } from 'vitest'
import { OverheadLine } from './overhead-line.js'

function lineOf(measurements: readonly (readonly [predictedMs: number, measuredMs: number])[]): OverheadLine {
  const line = new OverheadLine()
  for (const [predictedMs, measuredMs] of measurements) line.add(predictedMs, measuredMs, 100)
  return line
}

describe('the line through what was measured', () => {
  test('is what was predicted before anything was measured', () => {
    expect(new OverheadLine().at(300)).toBe(300)
  })

  test('does not make long requests of what short ones take besides', () => {
    const line = lineOf(Array.from({ length: 10 }, () => [20, 60] as const))
    expect(line.at(20)).toBeGreaterThan(50)
    expect(line.at(20)).toBeLessThan(65)
    expect(line.at(1_000)).toBeLessThan(1_700)
  })

  test.each([0.1, 0.5, 2, 8])('follows long ones that take %s of what was predicted', (factor) => {
    const line = lineOf(
      Array.from({ length: 10 }, (_, index) => [300 + 50 * index, factor * (300 + 50 * index)]),
    )
    expect(line.at(500) / (factor * 500)).toBeGreaterThan(0.85)
    expect(line.at(500) / (factor * 500)).toBeLessThan(1.2)
  })

  test('tells overhead and factor apart where it has seen both', () => {
    const line = lineOf(Array.from({ length: 20 }, (_, index) => [20 * index, 40 + 60 * index] as const))
    expect(line.at(0)).toBeGreaterThan(30)
    expect(line.at(0)).toBeLessThan(50)
    expect(line.ratio).toBeCloseTo(3, 0)
  })

  test('forgets: what came last counts', () => {
    const line = new OverheadLine()
    for (let count = 0; count < 50; count += 1) line.add(300, 2_400, 100)
    for (let count = 0; count < 6; count += 1) line.add(300, 300, 1_000)
    expect(line.at(300)).toBeLessThan(600)
  })
})
