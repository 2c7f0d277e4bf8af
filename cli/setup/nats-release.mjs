/**
 * The official nats-server release for a machine without Debian's package.
 *
 * The archive is checked against the release's own list of SHA-256 sums.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { SetupError } from './progress.mjs'
import { runQuietly } from './run-tool.mjs'

const version = 'v2.10.27'
const releaseUrl = `https://github.com/nats-io/nats-server/releases/download/${version}`
const requestMsMax = 120_000

/**
 * Puts `nats-server` into a folder.
 * @param {string} folder
 * @param {string} [baseUrl] where the release's files are
 * @returns {Promise<void>}
 */
export async function fetchRelease(folder, baseUrl = releaseUrl) {
  const name = archiveName(process.platform, process.arch)
  const sums = (await download(`${baseUrl}/SHA256SUMS`)).toString('utf8')
  const expected = checksumOf(sums, name)
  const archive = await download(`${baseUrl}/${name}`)
  const actual = createHash('sha256').update(archive).digest('hex')
  if (actual !== expected) {
    throw new SetupError(`The downloaded ${name} is damaged: its SHA-256 is ${actual}, not ${expected}.`)
  }
  const file = path.join(folder, name)
  writeFileSync(file, archive)
  await runQuietly('unpacking nats-server', 'tar', ['-xzf', file, '-C', folder])
  const binary = readdirSync(folder, { recursive: true })
    .map((entry) => path.join(folder, String(entry)))
    .find((entry) => path.basename(entry) === 'nats-server' && path.dirname(entry) !== folder)
  if (binary === undefined || !existsSync(binary)) throw new SetupError(`${name} holds no nats-server.`)
  renameSync(binary, path.join(folder, 'nats-server'))
}

/**
 * @param {string} platform as Node names it
 * @param {string} architecture as Node names it
 */
export function archiveName(platform, architecture) {
  const architectures = /** @type {Record<string, string>} */ ({ x64: 'amd64', arm64: 'arm64', arm: 'arm7' })
  const cpu = architectures[architecture]
  if (cpu === undefined || (platform !== 'linux' && platform !== 'darwin')) {
    throw new SetupError(`No official nats-server archive is known for ${platform} on ${architecture}.`)
  }
  return `nats-server-${version}-${platform}-${cpu}.tar.gz`
}

/**
 * @param {string} sums lines of `SUM  NAME`
 * @param {string} name
 */
export function checksumOf(sums, name) {
  for (const line of sums.split('\n')) {
    const match = /^([0-9a-f]{64})\s+\*?(\S+)$/.exec(line.trim())
    if (match?.[2] === name) return match[1]
  }
  throw new SetupError(`The release lists no SHA-256 of ${name}.`)
}

/** @param {string} url */
async function download(url) {
  let response
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(requestMsMax) })
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)
    throw new SetupError(`${url} could not be fetched: ${cause}.`)
  }
  if (!response.ok) throw new SetupError(`${url} could not be fetched: HTTP ${response.status}.`)
  return Buffer.from(await response.arrayBuffer())
}
