/**
 * The layer rules of ARCHITECTURE.md, held against the source. A rule that read no
 * file fails: a checker that silently sees nothing is worse than none.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')

/** What each package may import of the others; `parts` of engine stand without ONNX Runtime. */
const allowed: Record<string, readonly string[]> = {
  runtime: ['proto'],
  engine: ['proto', 'runtime'],
  catalogue: ['runtime'],
  agent: ['proto', 'runtime', 'catalogue', 'engine'],
  'host-agent': ['proto', 'runtime', 'engine/bm25', 'agent'],
  'gpu-agent': ['proto', 'runtime', 'agent'],
  'fpga-agent': ['proto', 'runtime', 'engine', 'agent'],
  coordinator: ['proto', 'runtime', 'engine/text'],
  cli: [
    'proto',
    'runtime',
    'engine',
    'agent',
    'host-agent',
    'gpu-agent',
    'fpga-agent',
    'coordinator',
    'catalogue',
    'study',
  ],
  study: ['runtime', 'catalogue', 'coordinator/core', 'agent/core'],
}

interface SourceImport {
  readonly file: string
  readonly specifier: string
}

function sourceFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((name) => name.endsWith('.ts') && !/node_modules|[/\\]dist[/\\]/.test(name))
}

function importsOf(file: string): SourceImport[] {
  const text = readFileSync(join(root, file), 'utf8')
  const pattern =
    /^\s*(?:import|export)\s(?:[^'"]*?\sfrom\s)?\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm
  return [...text.matchAll(pattern)].map((match) => ({ file, specifier: match[1] ?? match[2] ?? '' }))
}

/** Parts of engine that stand without the rest of it. */
const parts = ['text', 'bm25', 'driver-process'] as const

/** `@kvasir/engine/text/stream-decoder` → `engine/text`, `@kvasir/engine/sampler` → `engine`. */
function layerOf(specifier: string): string | undefined {
  const match = /^@kvasir\/([^/]+)(?:\/(.*))?$/.exec(specifier)
  if (!match) return undefined
  if (/^(agent|coordinator)$/.test(match[1] ?? '') && match[2]?.startsWith('core/')) return `${match[1]}/core`
  const part = parts.find((name) => match[1] === 'engine' && match[2]?.startsWith(`${name}/`))
  return part === undefined ? match[1] : `engine/${part}`
}

function maySee(layers: readonly string[], layer: string): boolean {
  return layers.includes(layer) || layers.includes(layer.replace(/\/.*/, ''))
}

describe('imports point one way', () => {
  for (const [layer, layers] of Object.entries(allowed)) {
    test(`${layer} imports only ${layers.join(', ')}`, () => {
      const files = sourceFiles(`${layer}/src`)
      expect(files.length).toBeGreaterThan(0)
      const wrong = files.flatMap(importsOf).filter(({ file, specifier }) => {
        const target = layerOf(specifier)
        if (target !== undefined) return target !== layer && !maySee(layers, target)
        if (!specifier.startsWith('.')) return false
        const path = relative(join(root, layer), resolve(root, dirname(file), specifier))
        return path.startsWith('..')
      })
      expect(wrong).toEqual([])
    })
  }

  test.each(parts)('engine/%s stands without ONNX Runtime and whatever needs it', (part) => {
    const seen = new Set<string>()
    const queue = sourceFiles(`engine/src/${part}`).filter((file) => !file.endsWith('.test.ts'))
    expect(queue.length).toBeGreaterThan(0)
    const wrong: SourceImport[] = []
    while (queue.length > 0) {
      const file = queue.pop() as string
      if (seen.has(file)) continue
      seen.add(file)
      for (const entry of importsOf(file)) {
        if (/^onnx/.test(entry.specifier)) wrong.push(entry)
        if (entry.specifier.startsWith('.')) {
          queue.push(relative(root, resolve(root, dirname(file), entry.specifier)).replace(/\.js$/, '.ts'))
        }
      }
    }
    expect(wrong).toEqual([])
  })
})

test('an agent with a driver of its own process reaches ONNX Runtime, weights and tokenizers only by importing them as it runs', () => {
  const seen = new Set<string>()
  const queue = ['gpu', 'fpga', 'host'].map((kind) => `${kind}-agent/src/main.ts`)
  const wrong: string[] = []
  while (queue.length > 0) {
    const file = queue.pop() as string
    if (seen.has(file)) continue
    seen.add(file)
    for (const specifier of loadedBy(file)) {
      if (/^(onnx|@huggingface\/)/.test(specifier)) wrong.push(`${file} imports ${specifier}`)
      const target = sourceOf(file, specifier)
      if (target !== undefined) queue.push(target)
    }
  }
  expect(seen.size).toBeGreaterThan(50)
  expect(wrong).toEqual([])
})

/** What running a file loads: imports that are not of types alone. */
function loadedBy(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  const pattern = /^\s*(?:import|export)\s(?!type\b)(?:([^'"]*?)\sfrom\s)?\s*['"]([^'"]+)['"]/gm
  return [...text.matchAll(pattern)].flatMap(([, clause = '', specifier = '']) => {
    const names = /^\{([\s\S]*)\}$/.exec(clause.trim())?.[1]?.split(',') ?? ['']
    const isTypes = names.every((name) => name.trim() === '' || name.trim().startsWith('type '))
    return isTypes && clause.trim() !== '' ? [] : [specifier]
  })
}

/** The file of this project that an import names; undefined for a library's or a generated one. */
function sourceOf(file: string, specifier: string): string | undefined {
  if (specifier.startsWith('.')) {
    return relative(root, resolve(root, dirname(file), specifier)).replace(/\.js$/, '.ts')
  }
  const match = /^@kvasir\/([^/]+)\/(.+)$/.exec(specifier)
  return match === null || match[1] === 'proto' ? undefined : `${match[1]}/src/${match[2]}.ts`
}

describe('the two cores are pure', () => {
  for (const core of ['agent/src/core', 'coordinator/src/core']) {
    const files = sourceFiles(core).filter((file) => !file.endsWith('.test.ts'))

    test(`${core} imports nothing but its own files`, () => {
      expect(files.length).toBeGreaterThan(0)
      const wrong = files.flatMap(importsOf).filter(({ file, specifier }) => {
        if (!specifier.startsWith('.')) return true
        return relative(join(root, core), resolve(root, dirname(file), specifier)).startsWith('..')
      })
      expect(wrong).toEqual([])
    })

    test(`${core} reads no clock, random source, environment or timer`, () => {
      const forbidden =
        /\b(Date\.now|new Date|performance\.|Math\.random|process\.|setTimeout|setInterval|setImmediate|queueMicrotask|crypto\.|fetch\(|console\.)/
      const wrong = files.flatMap((file) =>
        readFileSync(join(root, file), 'utf8')
          .split('\n')
          .map((line, index) => ({ at: `${file}:${index + 1}`, line: line.trim() }))
          .filter(({ line }) => !/^(\*|\/\/|\/\*)/.test(line) && forbidden.test(line)),
      )
      expect(wrong).toEqual([])
    })
  }
})

test('set-up scripts run before packages are installed, so they import Node alone', () => {
  const files = readdirSync(join(root, 'cli/setup')).filter((name) => name.endsWith('.mjs'))
  expect(files.length).toBeGreaterThan(0)
  const builtin = new Set(builtinModules)
  const wrong = files
    .flatMap((name) => importsOf(`cli/setup/${name}`))
    .filter(({ specifier }) => !specifier.startsWith('.') && !builtin.has(specifier.replace(/^node:/, '')))
  expect(wrong).toEqual([])
})

test('no package is without a layer rule', () => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { workspaces: string[] }
  const known = [...Object.keys(allowed), 'proto', 'test']
  expect(manifest.workspaces.filter((name) => !known.includes(name))).toEqual([])
})
