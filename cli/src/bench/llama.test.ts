import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { InvalidInputError, NotFoundError, UnavailableError } from '@kvasir/runtime/errors'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { benchLlama, resultOf } from './llama.js'
import { installedNodeLlama } from './node-llama.js'

let home: string
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'kvasir-llama-'))
  vi.stubEnv('KVASIR_HOME', home)
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(home, { recursive: true })
})

/** A program in place of npm. */
function program(text: string): string {
  const path = join(home, 'npm')
  writeFileSync(path, `#!/bin/sh\n${text}\n`)
  chmodSync(path, 0o755)
  return path
}

describe('node-llama-cpp', () => {
  it('is installed once, without scripts, into the cache', async () => {
    const npm = program(`echo "$@" >> ${home}/calls
mkdir -p node_modules/node-llama-cpp/dist && touch node_modules/node-llama-cpp/dist/index.js`)
    const url = await installedNodeLlama(npm)
    expect(fileURLToPath(url).startsWith(join(home, 'cache', 'node-llama-cpp-'))).toBe(true)
    expect(await installedNodeLlama(program('exit 1'))).toBe(url)
    const calls = readFileSync(join(home, 'calls'), 'utf8').trim().split('\n')
    expect(calls).toHaveLength(1)
    expect(calls[0]).toMatch(
      /--ignore-scripts --omit=optional.* node-llama-cpp@[\d.]+ @node-llama-cpp\/\S+@[\d.]+$/,
    )
  })

  it("that cannot be installed is one sentence in npm's words, and nothing is left behind", async () => {
    const npm = program(
      'echo "npm warn old lockfile" >&2; echo "npm error request to registry failed" >&2; exit 1',
    )
    const error = await installedNodeLlama(npm).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(UnavailableError)
    expect(String(error)).toMatch(
      /node-llama-cpp [\d.]+ cannot be installed \(request to registry failed\); this bench needs npm/,
    )
    expect(readdirSync(join(home, 'cache'))).toEqual([])
    await expect(installedNodeLlama(join(home, 'no-npm'))).rejects.toThrow(/cannot be installed \(.*ENOENT/)
  })
})

describe('bench llama', () => {
  const options = { type: 'Q4_0', rounds: 1 } as const

  it('refuses a file that is missing or no GGUF before it installs anything', async () => {
    const { signal } = new AbortController()
    await expect(benchLlama({ ...options, gguf: join(home, 'none.gguf') }, signal)).rejects.toThrow(
      NotFoundError,
    )
    await expect(benchLlama({ ...options, gguf: 'skald' }, signal)).rejects.toThrow(InvalidInputError)
    expect(readdirSync(home)).toEqual([])
  })

  it('takes ratios within a round, and their median', () => {
    const times = (ttftMs: number, tpotMs: number) => ({ ttftMs, tpotMs })
    const { figures, rows } = resultOf(
      [
        { kvasir: times(1_000, 10), llama: times(2_000, 30) },
        { kvasir: times(500, 5), llama: times(500, 10) },
        { kvasir: times(4_000, 40), llama: times(2_000, 40) },
      ],
      2,
    )
    expect(figures).toMatchObject({ prefillOverLlama: 1, decodeOverLlama: 2, threads: 2 })
    expect(figures).toMatchObject({ prefillTokensPerS: 512, llamaDecodeTokensPerS: 33.33 })
    expect(rows).toHaveLength(6)
    expect(rows[1]).toEqual({
      round: 1,
      engine: 'llama.cpp',
      prefillTokensPerS: 256,
      decodeTokensPerS: 33.33,
    })
  })
})
