import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { PROTOCOL_VERSION, protocolSupported, SOFTWARE_VERSION } from './protocol.js'
import { cacheFolder, logFolder, projectRoot, runRecordPath, stateFolder } from './state-folder.js'

afterEach(() => vi.unstubAllEnvs())

test('the state is in the project unless KVASIR_HOME says otherwise', () => {
  vi.stubEnv('KVASIR_HOME', '')
  expect(existsSync(join(projectRoot(), 'runtime', 'package.json'))).toBe(true)
  expect(stateFolder()).toBe(join(projectRoot(), '.kvasir'))
  vi.stubEnv('KVASIR_HOME', '/var/lib/kvasir/')
  expect(runRecordPath()).toBe('/var/lib/kvasir/run/cluster.json')
  expect(cacheFolder()).toBe('/var/lib/kvasir/cache')
  expect(logFolder()).toBe('/var/lib/kvasir/log')
})

test('versions', () => {
  expect(SOFTWARE_VERSION).toMatch(/^\d+\.\d+\.\d+/)
  expect(protocolSupported(PROTOCOL_VERSION)).toBe(true)
  expect(protocolSupported(PROTOCOL_VERSION + 1)).toBe(false)
  expect(protocolSupported(undefined)).toBe(false)
})
