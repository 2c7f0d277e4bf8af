import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { runRecordPath } from '@kvasir/runtime/state-folder'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { locateCluster } from '../client/locate-cluster.js'
import {
  type ClusterClaim,
  claimStateFolder,
  liveSupervisor,
  natsFolder,
  readLiveRecord,
} from './run-record.js'

let home: string
const before = { home: process.env.KVASIR_HOME, url: process.env.KVASIR_URL }

beforeEach(() => {
  home = mkdtempSync(path.join(os.tmpdir(), 'kvasir-record-'))
  process.env.KVASIR_HOME = home
  delete process.env.KVASIR_URL
})
afterEach(() => {
  for (const [name, value] of [
    ['KVASIR_HOME', before.home],
    ['KVASIR_URL', before.url],
  ] as const) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }
  rmSync(home, { recursive: true, force: true })
})

const record = {
  url: 'http://127.0.0.1:8080',
  natsUrl: 'nats://127.0.0.1:4222',
  startedAt: '2026-01-02T03:04:05.000Z',
  processes: [{ name: 'gpu-0', pid: 7, logFile: '/log/gpu-0.jsonl' }],
}

function claim(): ClusterClaim {
  const result = claimStateFolder()
  if ('heldBy' in result) throw new Error(`held by ${result.heldBy}`)
  return result
}

test('a record is there from writing to release, and one supervisor has the folder', () => {
  expect(liveSupervisor()).toBeUndefined()
  const mine = claim()
  expect(readLiveRecord()).toBeUndefined()
  expect(liveSupervisor()).toMatchObject({ pid: process.pid })
  mine.write(record)
  expect(readLiveRecord()).toMatchObject({ ...record, pid: process.pid })
  expect(claimStateFolder()).toEqual({ heldBy: process.pid })
  expect(locateCluster()).toBe(record.url)
  mine.release()
  expect(existsSync(runRecordPath())).toBe(false)
  expect(liveSupervisor()).toBeUndefined()
  claim().release()
})

test('what a killed supervisor left is not believed, and the next one cleans it', () => {
  const killed = { ...record, pid: process.pid, pidStart: '1', version: '0.1.0' }
  mkdirSync(natsFolder(4711), { recursive: true })
  writeFileSync(runRecordPath(), JSON.stringify(killed))
  expect(readLiveRecord()).toBeUndefined()
  expect(() => locateCluster()).toThrow(/No cluster runs here/)
  claim().release()
  expect([existsSync(runRecordPath()), existsSync(natsFolder(4711))]).toEqual([false, false])
})

test('a damaged record counts as none', () => {
  const mine = claim()
  mine.write(record)
  writeFileSync(runRecordPath(), readFileSync(runRecordPath(), 'utf8').slice(0, 40))
  expect(readLiveRecord()).toBeUndefined()
  writeFileSync(runRecordPath(), '{"pid":"1"}')
  expect(readLiveRecord()).toBeUndefined()
  mine.release()
})

test('KVASIR_URL wins, and must be a URL', () => {
  process.env.KVASIR_URL = 'http://10.0.0.5:8080/'
  expect(locateCluster()).toBe('http://10.0.0.5:8080')
  process.env.KVASIR_URL = '10.0.0.5:8080'
  expect(() => locateCluster()).toThrow(/KVASIR_URL/)
})
