/** A document of a study for tests of what shows it. */
import { type StudyDocument, studyDocument } from '../report/document.js'
import type { StudyResult } from '../study.js'

export function sampleDocument(result: Partial<StudyResult> = {}): StudyDocument {
  const whole: StudyResult = {
    title: 'How fast is it?',
    findings: ['It is twice as fast.'],
    figures: { ratio: 2, unfitted: { ratio: 1.5 } },
    rows: [{ device: 'u280', tokensPerS: 1_234.5678 }],
    tables: [],
    plots: [],
    assumptions: ['Times are modelled.'],
    pointsSkipped: 0,
    ...result,
  }
  return studyDocument(whole, {
    name: 'sample',
    command: 'kvasir study sample --seed 1',
    environment: {
      node: '20.20.0',
      version: '0.1.0',
      cpu: 'a processor',
      cores: 2,
      memoryBytes: 8e9,
      workers: 2,
      startedAt: '2026-01-02T03:04:05.678Z',
      tookS: 1.5,
    },
  })
}
