import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { build } from '#setup/build'

let root: string
let state: string

/** Stands in for tsc: compiles by copying, keeps a .tsbuildinfo, and counts its runs. */
const fakeCompiler = `
const fs = require('node:fs'), path = require('node:path')
fs.appendFileSync('compiler-runs', fs.existsSync('a/dist/.tsbuildinfo') ? 'incremental ' : 'whole ')
if (fs.existsSync('broken')) { console.error('a.ts(1,1): error'); process.exit(2) }
for (const [from, to] of [['proto/gen', 'proto/dist'], ['a/src', 'a/dist']]) {
  fs.mkdirSync(path.join(to, 'kvasir'), { recursive: true })
  for (const file of fs.readdirSync(from, { recursive: true })) if (/ts$/.test(file)) for (const end of ['js', 'd.ts']) fs.copyFileSync(path.join(from, file), path.join(to, file.replace(/ts$/, end)))
  fs.writeFileSync(path.join(to, '.tsbuildinfo'), '{}')
}`

/** Stands in for buf. */
const fakeGenerator = `
const fs = require('node:fs')
fs.mkdirSync('gen/kvasir', { recursive: true })
for (const file of fs.readdirSync('kvasir')) fs.writeFileSync('gen/kvasir/' + file.replace(/proto$/, 'ts'), '')
fs.appendFileSync('../generator-runs', 'run ')`

beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'kvasir-build-'))
  state = path.join(root, '.kvasir', 'setup')
  write('node_modules/typescript/bin/tsc', fakeCompiler)
  write('node_modules/@bufbuild/buf/bin/buf', fakeGenerator)
  write('tsconfig.json', '{"references":[{"path":"proto"},{"path":"a"}]}')
  for (const file of ['tsconfig.base.json', 'proto/buf.yaml', 'proto/buf.gen.yaml', 'cli/setup/x.mjs'])
    write(file, '')
  for (const folder of ['proto', 'a']) {
    write(`${folder}/tsconfig.json`, '{}')
    write(`${folder}/package.json`, '{}')
  }
  write('proto/kvasir/kv.proto', 'message A {}')
  write('a/src/one.ts', '1')
  write('a/src/two.ts', '2')
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function write(file: string, content: string): void {
  const target = path.join(root, file)
  mkdirSync(path.dirname(target), { recursive: true })
  writeFileSync(target, content)
  if (file.includes('/bin/')) chmodSync(target, 0o755)
}

const read = (file: string) =>
  existsSync(path.join(root, file)) ? readFileSync(path.join(root, file), 'utf8') : ''
const has = (file: string) => existsSync(path.join(root, file))

test('builds once, and again for what changed alone', async () => {
  await build(root, state)
  await build(root, state)
  expect([read('generator-runs'), read('compiler-runs')]).toEqual(['run ', 'whole '])
  write('a/src/one.ts', '11')
  await build(root, state)
  expect([read('generator-runs'), read('compiler-runs')]).toEqual(['run ', 'whole incremental '])
  write('proto/kvasir/kv.proto', 'message A { }')
  await build(root, state)
  expect(read('generator-runs')).toBe('run run ')
})

test('what a deleted source left in dist is removed, and a deleted dist is built again', async () => {
  await build(root, state)
  rmSync(path.join(root, 'a/src/two.ts'))
  await build(root, state)
  expect([has('a/dist/one.js'), has('a/dist/two.js')]).toEqual([true, false])
  rmSync(path.join(root, 'a/dist'), { recursive: true })
  await build(root, state)
  expect(has('a/dist/one.js')).toBe(true)
  rmSync(path.join(root, 'proto/gen'), { recursive: true })
  await build(root, state)
  expect(has('proto/gen/kvasir/kv.ts')).toBe(true)
})

test('one file missing in dist is written again, declarations too', async () => {
  for (const file of ['a/dist/one.js', 'a/dist/one.d.ts']) {
    await build(root, state)
    rmSync(path.join(root, file))
    await build(root, state)
    expect(has(file)).toBe(true)
  }
  // The record of an incremental build says that the file is there.
  expect(read('compiler-runs')).toBe('whole whole whole ')
})

test('a build that was killed is made again as a whole', async () => {
  await build(root, state)
  write('.kvasir/setup/compile.stamp', 'building')
  await build(root, state)
  expect(read('compiler-runs')).toBe('whole whole ')
})

test('sources that do not compile are an error each time, until they do', async () => {
  write('broken', '')
  await expect(build(root, state)).rejects.toThrow(/do not compile/)
  await expect(build(root, state)).rejects.toThrow(/do not compile/)
  rmSync(path.join(root, 'broken'))
  await build(root, state)
  expect(has('a/dist/one.js')).toBe(true)
})
