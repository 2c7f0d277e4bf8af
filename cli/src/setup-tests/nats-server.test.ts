import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { archiveName, checksumOf, fetchRelease } from '#setup/nats-release'
import { findNatsServer } from '#setup/nats-server'

let folder: string
let server: http.Server | undefined

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'kvasir-nats-'))
})
afterEach(() => {
  server?.close()
  server = undefined
  rmSync(folder, { recursive: true, force: true })
})

/** A release's folder as the web shows it. */
async function serveRelease(files: Record<string, Buffer | string>): Promise<string> {
  server = http.createServer((request, response) => {
    const file = files[request.url?.slice(1) ?? '']
    response.writeHead(file === undefined ? 404 : 200).end(file)
  })
  await new Promise<void>((done) => server?.listen(0, '127.0.0.1', done))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function archive(): Buffer {
  mkdirSync(path.join(folder, 'release'))
  writeFileSync(path.join(folder, 'release', 'nats-server'), '#!/bin/sh\n')
  spawnSync('tar', ['-czf', 'release.tar.gz', 'release'], { cwd: folder })
  return readFileSync(path.join(folder, 'release.tar.gz'))
}

test('a release is taken when its checksum is right', async () => {
  const bytes = archive()
  const name = archiveName(process.platform, process.arch)
  const sum = createHash('sha256').update(bytes).digest('hex')
  const url = await serveRelease({ SHA256SUMS: `${sum}  ${name}\n`, [name]: bytes })
  const target = path.join(folder, 'target')
  mkdirSync(target)
  await fetchRelease(target, url)
  expect(existsSync(path.join(target, 'nats-server'))).toBe(true)
})

test('a damaged download, a missing one and an unlisted one are refused with a sentence', async () => {
  const name = archiveName(process.platform, process.arch)
  const url = await serveRelease({ SHA256SUMS: `${'0'.repeat(64)}  ${name}\n`, [name]: archive() })
  await expect(fetchRelease(folder, url)).rejects.toThrow(/is damaged/)
  await expect(fetchRelease(folder, `${url}/nowhere`)).rejects.toThrow(/HTTP 404/)
  expect(() => checksumOf('abc  other.tar.gz', name)).toThrow(/lists no SHA-256/)
  expect(() => archiveName('win32', 'x64')).toThrow(/No official nats-server/)
})

test('KVASIR_NATS_SERVER wins, then PATH; a wrong one is an error', () => {
  const program = path.join(folder, 'nats-server')
  writeFileSync(program, '#!/bin/sh\n')
  expect(() => findNatsServer({ KVASIR_NATS_SERVER: program })).toThrow(/is not a program/)
  chmodSync(program, 0o755)
  expect(findNatsServer({ KVASIR_NATS_SERVER: program, PATH: '' })).toBe(program)
  expect(findNatsServer({ PATH: folder })).toBe(program)
})
