import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { builtinCatalogue } from '@kvasir/catalogue/load-catalogue'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { clusterPlan, DEFAULT_CLUSTER_FILE, readClusterFile } from './cluster-file.js'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvasir-cluster-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

function planOf(text: string) {
  const file = join(folder, 'cluster.yaml')
  writeFileSync(file, text)
  return clusterPlan(readClusterFile(file), builtinCatalogue())
}

const HEAD = 'model: llama-3.1-8b\npreset: vllm\n'
const machine = (device: string) => `${HEAD}machines:\n  - devices:\n      - { ${device} }\n`

test.each(readdirSync(dirname(DEFAULT_CLUSTER_FILE)))('the example %s is a cluster', (name) => {
  const plan = clusterPlan(readClusterFile(join(dirname(DEFAULT_CLUSTER_FILE), name)), builtinCatalogue())
  expect(plan.machines.flatMap(({ devices }) => devices).length).toBeGreaterThan(1)
})

test('counts are unrolled, ids are unique, and what is set is set', () => {
  const plan = planOf(
    `${HEAD}network: { like: 100gbe, bytesPerSecond: 1e9 }
machines:
  - count: 2
    devices:
      - { device: a100-80-pcie, count: 3, decodeSlots: 7, use: { decodeBandwidth: 0.5, weightBits: 8 } }
      - { device: u280, count: 2, memories: [hbm], tierPolicy: reactive }
`,
  )
  const devices = plan.machines.flatMap((one) => one.devices)
  expect(plan.machines).toHaveLength(2)
  expect(new Set(devices.map(({ deviceId }) => deviceId)).size).toBe(10)
  expect(plan.machines[0]?.network.bytesPerSecond).toBe(1e9)
  expect(devices[0]).toMatchObject({
    capabilities: ['prefill', 'decode'],
    decodeSlots: 7,
    model: { use: { decodeBandwidth: 0.5, weightBits: 8 } },
  })
  const fpga = devices.find(({ deviceId }) => deviceId === 'u280-0')
  expect(fpga).toMatchObject({
    capabilities: ['decode', 'prefill'],
    tierPolicy: 'reactive',
    decodesAtOnce: 1,
  })
  expect(fpga?.model.kvMemories.map(({ name }) => name)).toEqual(['hbm'])
})

test('what KV takes on the wire follows from the profile', () => {
  const [paper, exact] = ['paper', 'exact'].map((profile) =>
    planOf(`profile: ${profile}\n${machine('device: a100-80-pcie')}`),
  )
  const values = paper?.model.kvValuesPerToken ?? 0
  expect(exact?.wireBytesPerToken).toBe(4 * values)
  expect(paper?.wireBytesPerToken).toBeGreaterThan(values)
  expect(paper?.wireBytesPerToken).toBeLessThan(1.1 * values)
})

describe('whatever is wrong is said with file, line and what to write', () => {
  test.each([
    [
      'a field nobody knows',
      machine('device: u280, cout: 2'),
      /:5: .* has no field cout; did you mean count/,
    ],
    [
      'a count of 0',
      machine('device: u280, count: 0'),
      /:5: machines\[0\].devices\[0\].count is 0; it must be 1/,
    ],
    ['a device nobody knows', machine('device: u2800'), /:5: .*no device u2800; did you mean u280/],
    ['a device without figures', machine('device: t4'), /:2: The preset vllm has no figures for t4/],
    [
      'no decode',
      machine('device: u280, capabilities: [prefill]'),
      /:3: no device of the cluster can decode/,
    ],
    [
      'no prefill',
      machine('device: u280, capabilities: [decode]'),
      /:3: no device of the cluster can prefill/,
    ],
    [
      'a bandwidth below 0',
      machine('device: u280, link: { like: pcie3-x16, bytesPerSecond: -1 }'),
      /:5: .*bytesPerSecond is -1; it must be above 0/,
    ],
    ['a link nobody knows', machine('device: u280, link: pcie9'), /:5: there is no link pcie9/],
    ['a memory it lacks', machine('device: u280, memories: [hbn]'), /:5: .*hbn; did you mean hbm/],
    [
      'a share above 1',
      machine('device: u280, use: { prefillCompute: 3 }'),
      /:5: .*is 3; it must be at most 1/,
    ],
    [
      'a model that does not fit',
      machine('device: u280').replace('llama-3.1-8b', 'llama-3.1-70b'),
      /:5: .*does not fit on u280.*are lacking/,
    ],
    [
      'a model nobody knows',
      machine('device: u280').replace('3.1-8b', '3.1-9b'),
      /:1: there is no model .*did you mean/,
    ],
    ['no machines', HEAD, /machines is missing/],
    ['no YAML', `${HEAD}machines: [`, /this is not YAML/],
    ['a list', '- a\n', /:1: the file has no fields; a cluster has .*machines/],
    ['nothing', '', /:1: the file is empty; a cluster has .*machines/],
  ])('%s', (_what, text, message) => {
    expect(() => planOf(text)).toThrow(InvalidInputError)
    expect(() => planOf(text)).toThrow(message)
  })

  test('a file that is not there', () => {
    expect(() => readClusterFile(join(folder, 'none.yaml'))).toThrow(/cannot be read/)
  })
})
