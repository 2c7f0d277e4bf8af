import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadCatalogue } from '@kvasir/catalogue/load-catalogue'
import type { CompletionHistory, KeptCompletion } from '@kvasir/coordinator/core/completion-record'
import type { DeviceFacts } from '@kvasir/coordinator/core/facts'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { VirtualCluster } from '../cluster/virtual-cluster.js'
import { testPlan } from '../testing/plans.js'
import { calibrate, REQUESTS_MIN } from './calibrate.js'
import { catalogueYaml } from './catalogue-yaml.js'
import { leastErrorScale } from './fit.js'
import { historyLines, joinedHistories, readHistory } from './history-lines.js'

/** What a virtual cluster of one V100S and two U280 did, as a coordinator would keep it. */
function played(requests: number): CompletionHistory {
  const devices = new Map<string, DeviceFacts>()
  const completions: KeptCompletion[] = []
  const cluster = new VirtualCluster(testPlan(), {
    seed: 1,
    onOutcome: () => {},
    probe: {
      coordinator(event) {
        if (event.type === 'advertised') devices.set(event.device.deviceId, event.device)
        if (event.type !== 'completed') return
        const measured = { queueMs: 0, ttftMs: 500, tpotMs: 25 }
        const requestId = `r${completions.length}`
        completions.push({
          requestId,
          record: event.record,
          predicted: { ttftMs: 400, tpotMs: 30 },
          measured,
        })
      },
    },
  })
  cluster.run(
    Array.from({ length: requests }, (_, index) => ({
      requestId: `r${index}`,
      arrivalMs: index * 700,
      promptTokens: 64 + ((index * 97) % 900),
      outputTokens: 20 + ((index * 13) % 100),
      blocks: [],
    })),
  )
  return { devices: [...devices.values()], completions }
}

const history = played(80)
const options = { seed: 1, holdOut: 0.3 }

describe('calibration', () => {
  const calibration = calibrate(history, options)
  const total = (stage: string) => calibration.total.find((one) => one.stage === stage)

  it('finds the utilisations that the devices have', () => {
    const of = (deviceId: string, role: string) =>
      calibration.fit.efficiencies.find((one) => one.deviceId === deviceId && one.role === role)?.efficiency
    // The cost model counts the embedding's last product for each token of a prompt, which the device does not do.
    expect(of('gpu-0', 'prefill')).toBeCloseTo(0.4077, 1)
    expect(of('fpga-0', 'decode')).toBeCloseTo(0.4008, 1)
    expect(of('fpga-1', 'decode')).toBeCloseTo(0.4008, 1)
  })

  it('predicts requests that it was not fitted to better than before, at each stage', () => {
    expect(calibration.requests).toEqual({ fitted: 56, heldOut: 24 })
    for (const stage of ['prefill', 'step', 'transfer']) {
      const errors = total(stage)
      expect(errors?.after.records).toBeGreaterThan(0)
      expect(errors?.after.median, stage).toBeLessThanOrEqual((errors?.before.median ?? 0) + 0.005)
    }
    expect(total('step')?.after.median).toBeLessThan(0.05)
  })

  it('repairs a device that advertises three times what it has', () => {
    const boasting = history.devices.map((device) => ({
      ...device,
      compute: device.compute.map((rate) => ({ ...rate, opsPerSecond: 3 * rate.opsPerSecond })),
      tiers: device.tiers.map((tier) => ({ ...tier, bytesPerSecond: 3 * tier.bytesPerSecond })),
    }))
    const repaired = calibrate({ ...history, devices: boasting }, options)
    for (const stage of ['prefill', 'step']) {
      const errors = repaired.total.find((one) => one.stage === stage)
      expect(errors?.before.median).toBeGreaterThan(0.5)
      expect(errors?.after.median).toBeLessThan(0.1)
      // The coordinator learns the same from the same requests.
      expect(errors?.learned.median).toBeLessThan(0.1)
    }
  })

  it('says how far the predictions were as requests were served, and which devices are modelled', () => {
    expect(calibration.served.ttft).toEqual({ records: 80, median: 0.2, p90: 0.2 })
    expect(calibration.served.tpot?.median).toBeCloseTo(0.2)
    expect(calibration.modelled).toContain('gpu-0')
  })

  it('depends on the seed and not on the order of the requests', () => {
    const turned = { ...history, completions: [...history.completions].reverse() }
    const { learned: _, ...rest } = total('step') ?? { learned: undefined }
    const other = calibrate(turned, options).total.find((one) => one.stage === 'step')
    expect(other).toMatchObject(rest)
    expect(calibrate(history, { ...options, seed: 2 }).fit).not.toEqual(calibration.fit)
  })

  it('fits to no request that it judges by', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 1e6 }),
        fc.double({ min: 0.05, max: 0.95, noNaN: true }),
        (seed, holdOut) => {
          const { requests, fit } = calibrate(history, { seed, holdOut })
          expect(requests.fitted + requests.heldOut).toBe(80)
          expect(requests.heldOut).toBeGreaterThan(0)
          const decoded = fit.efficiencies.filter(({ role }) => role === 'decode')
          const records = decoded.reduce((sum, one) => sum + one.records, 0)
          expect(records).toBeLessThanOrEqual(requests.fitted)
        },
      ),
      { numRuns: 20 },
    )
  })

  it('refuses too few requests and says what to do', () => {
    const few = { ...history, completions: history.completions.slice(0, REQUESTS_MIN - 1) }
    expect(() => calibrate(few, options)).toThrow(/9 finished requests are known; 10 are needed/)
  })

  it('writes what it found as a catalogue that studies take', () => {
    const yaml = catalogueYaml(history, calibration) ?? ''
    const folder = mkdtempSync(join(tmpdir(), 'kvasir-calibrate-'))
    const file = join(folder, 'calibrated.yaml')
    writeFileSync(file, yaml)
    const { devices, links, presets } = loadCatalogue([file])
    rmSync(folder, { recursive: true })
    const preset = presets.get('calibrated-llama-2-7b-paper')
    expect(preset?.devices['fpga-0']?.decodeBandwidth).toBeCloseTo(0.4, 1)
    expect(preset?.devices['gpu-0']?.weightBits).toBeCloseTo(16)
    expect(devices.get('gpu-0')?.sources['memories.hbm.bytes']).toMatch(/calibrated on 56/)
    expect(links.get('fpga-0-link')?.bytesPerSecond).toBeGreaterThan(1e9)
  })

  it('raises a peak that was advertised too low, since a share is at most 1', () => {
    const modest = history.devices.map((device) => ({
      ...device,
      tiers: device.tiers.map((tier) => ({ ...tier, bytesPerSecond: tier.bytesPerSecond / 10 })),
    }))
    const low = { ...history, devices: modest }
    const yaml = catalogueYaml(low, calibrate(low, options)) ?? ''
    expect(yaml).toMatch(/decodeBandwidth: 1\n/)
  })
})

it('the scale of a fit is the one with the least mean relative error', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0.01, max: 100, noNaN: true }), { minLength: 1, maxLength: 9 }),
      fc.double({ min: 0.01, max: 100, noNaN: true }),
      (values, other) => {
        const error = (scale: number) => values.reduce((sum, value) => sum + Math.abs(scale / value - 1), 0)
        expect(error(leastErrorScale(values))).toBeLessThanOrEqual(error(other) * (1 + 1e-9))
      },
    ),
  )
})

describe('a history in a file', () => {
  it('is read as it was written', () => {
    const text = historyLines(history)
    expect(readHistory(text, 'h.jsonl')).toEqual(JSON.parse(JSON.stringify(history)))
  })

  it('is joined with others, each request once', () => {
    const half = { ...history, completions: history.completions.slice(0, 40) }
    expect(joinedHistories([half, history]).completions).toHaveLength(80)
  })

  it.each([
    ['{"completion": ', /h\.jsonl:2: this line is not JSON/],
    ['{"other": 1}', /h\.jsonl:2: .*it must be \{"device"/],
    [
      '{"completion": {"requestId": "a", "record": {"modelDigest": "m", "profile": "fast"}}}',
      /h\.jsonl:2: .*record\.profile/,
    ],
    ['3', /h\.jsonl:2: this line is not valid/],
  ])('with a broken line is refused by its number: %s', (line, message) => {
    const first = historyLines({ devices: history.devices.slice(0, 1), completions: [] })
    expect(() => readHistory(`${first}${line}\n`, 'h.jsonl')).toThrow(message)
  })
})
