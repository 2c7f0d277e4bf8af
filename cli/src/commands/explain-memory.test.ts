import type { RequestReport } from '@kvasir/coordinator/generation'
import { describe, expect, test } from 'vitest'
import { explainMemory } from './explain-memory.js'

const nothing = {
  promptTokens: 40,
  prefix: null,
  attention: null,
  retrieval: null,
  stages: [],
  tierReads: [],
} as Partial<RequestReport>

const explain = (report: Partial<RequestReport>): string =>
  explainMemory({ ...nothing, ...report } as RequestReport).join('\n')

describe('explain', () => {
  test('says nothing of what a request did not use', () => {
    expect(explain({})).toBe('')
  })

  test('says where each run of blocks came from, and why one was computed', () => {
    const text = explain({
      prefix: {
        blocks: 3,
        cachedTokens: 32,
        fetchedBytes: 4_000_000,
        fetchMs: 12.5,
        heldByDecodeTokens: 16,
        runs: [
          {
            firstBlock: 0,
            blocks: 1,
            tokens: 16,
            source: 'local',
            device: 'gpu-0',
            tier: 'hbm',
            reason: 'It was there.',
          },
          {
            firstBlock: 1,
            blocks: 1,
            tokens: 16,
            source: 'fetched',
            device: 'host-0',
            tier: 'dram',
            reason: 'Faster.',
          },
          {
            firstBlock: 2,
            blocks: 1,
            tokens: 8,
            source: 'computed',
            device: 'gpu-0',
            tier: null,
            reason: 'The tail.',
          },
        ],
      },
    })
    expect(text).toContain('32 of 40 tokens were cached, 4.00 MB fetched in 12.5 ms')
    expect(text).toMatch(/0\s+16\s+held by gpu-0 \(hbm\)\s+It was there\./)
    expect(text).toMatch(/1\s+16\s+fetched from host-0 \(dram\)\s+Faster\./)
    expect(text).toMatch(/2\s+8\s+computed on gpu-0\s+The tail\./)
    expect(text).toContain('held 16 tokens of it already')
  })

  test('shows the share of pages that sparse attention read, and the bytes of each tier', () => {
    const text = explain({
      attention: {
        method: 'page-bounds',
        budgetPages: 4,
        promptPages: 16,
        place: 'partial',
        attendDevice: 'fpga-1',
        asked: true,
        reason: 'It was asked for.',
        pages: 100,
        pagesRead: 25,
        wireBytes: 2_048,
        remoteMs: 3,
      },
      tierReads: [
        { tier: 'hbm', readBytes: 9_000, movedBytes: 1_000 },
        { tier: 'ddr', readBytes: 1_000, movedBytes: 0 },
      ],
    })
    expect(text).toContain('page-bounds, 4 of 16 pages, with fpga-1')
    expect(text).toContain('read 25 % of the pages there were, 2.05 kB on the wire')
    expect(text).toMatch(/hbm\s+9\.00 kB\s+1\.00 kB/)
  })

  test('prints the stages of a pipeline once under its name', () => {
    const stage = (name: 'prepare' | 'relevancy'): RequestReport['stages'][number] => ({
      pipeline: 'retrieval',
      stage: name,
      what: name,
      devices: ['fpga-0', 'fpga-1'],
      predictedMs: 1,
      transferMs: 0.5,
      transferBytes: 512,
      measuredMs: null,
      alternative: null,
      reason: 'Quickest.',
    })
    const text = explain({ stages: [stage('prepare'), stage('relevancy')] })
    expect(text.match(/retrieval/g)).toHaveLength(1)
    expect(text).toMatch(/fpga-0, fpga-1\s+1\.00 ms\s+512 B, 500 µs\s+–\s+Quickest\./)
  })
})
