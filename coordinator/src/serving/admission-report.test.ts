import { describe, expect, test } from 'vitest'
import { admissionReport } from './admission-report.js'

describe('the report on a wait', () => {
  test('says that there was none', () => {
    const report = admissionReport({}, { waitedMs: 0, tokensAhead: 0, cause: 'none' }, true)
    expect(report).toMatchObject({ priority: 0, ttftDeadlineMs: null, waitedMs: 0, tokensAhead: 0 })
    expect(report.reason).toBe('It did not wait: devices had room at once.')
  })

  test('says why, and in which order', () => {
    const wait = { waitedMs: 1_234.5678, tokensAhead: 900.4, cause: 'room' } as const
    const report = admissionReport({ priority: 3, ttftDeadlineMs: 2_000 }, wait, false)
    expect(report).toMatchObject({
      priority: 3,
      ttftDeadlineMs: 2_000,
      waitedMs: 1_234.568,
      tokensAhead: 900,
    })
    expect(report.reason).toMatch(
      /^It waited because no device had room; work of about 900 tokens .*priority \(3\)/,
    )
  })

  test('tells one that still waits from one that was never placed', () => {
    expect(admissionReport({}, undefined, false)).toMatchObject({
      waitedMs: null,
      reason: 'It waits for a place.',
    })
    expect(admissionReport({}, undefined, true).reason).toBe('It was given no place.')
  })
})
