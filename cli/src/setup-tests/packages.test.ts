import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { installedAgreesWithLock, installPackages } from '#setup/packages'

let root: string
let state: string
const originalPath = process.env.PATH

beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'kvasir-packages-'))
  state = path.join(root, '.kvasir', 'setup')
  write('package.json', { workspaces: ['a'], devDependencies: { left: '1.0.0' } })
  write('a/package.json', { dependencies: { right: '2.0.0' }, bin: { a: 'a.js' } })
  write('package-lock.json', lock)
})
afterEach(() => {
  process.env.PATH = originalPath
  rmSync(root, { recursive: true, force: true })
})

const lock = {
  packages: {
    '': { devDependencies: { left: '1.0.0' } },
    a: { dependencies: { right: '2.0.0' }, bin: { a: 'a.js' } },
    'node_modules/a': { link: true },
    'node_modules/left': { version: '1.0.0', integrity: 'sha512-l' },
    'node_modules/right': { version: '2.0.0', integrity: 'sha512-r' },
    'node_modules/other-platform': { version: '3.0.0', optional: true },
  },
}

function write(file: string, content: object | string): void {
  const target = path.join(root, file)
  mkdirSync(path.dirname(target), { recursive: true })
  writeFileSync(target, typeof content === 'string' ? content : JSON.stringify(content))
}

/** What npm leaves in node_modules after `npm install`. */
function writeInstalled(folder = '.'): void {
  const { '': _, 'node_modules/other-platform': __, ...installed } = lock.packages
  for (const name of Object.keys(installed)) {
    if (name.startsWith('node_modules/')) write(`${folder}/${name}/package.json`, {})
  }
  write(`${folder}/node_modules/.package-lock.json`, { packages: installed })
}

/** An npm that counts its runs, and fails or succeeds. */
function fakeNpm(exitCode: number): void {
  writeInstalled('npm-brings')
  const brings = exitCode === 0 ? `cp -r "${root}/npm-brings/node_modules/." "${root}/node_modules"` : ''
  write(
    'bin/npm',
    `#!/bin/sh\necho run >> "${root}/npm-runs"\necho "npm says why" >&2\n${brings}\nexit ${exitCode}\n`,
  )
  chmodSync(path.join(root, 'bin/npm'), 0o755)
  process.env.PATH = `${path.join(root, 'bin')}:${originalPath}`
}

function runs(): number {
  const file = path.join(root, 'npm-runs')
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n').length : 0
}

test('packages are installed once, and again when a package.json changes', async () => {
  fakeNpm(0)
  await installPackages(root, state)
  await installPackages(root, state)
  expect(runs()).toBe(1)
  write('a/package.json', { dependencies: { right: '2.0.1' } })
  await installPackages(root, state)
  expect(runs()).toBe(2)
})

test('packages of which one is gone are installed again', async () => {
  fakeNpm(0)
  for (const gone of [
    'node_modules/left',
    'node_modules/right/package.json',
    'node_modules/.package-lock.json',
  ]) {
    await installPackages(root, state)
    rmSync(path.join(root, gone), { recursive: true })
    await installPackages(root, state)
    expect(existsSync(path.join(root, gone)), gone).toBe(true)
  }
  expect(runs()).toBe(4)
})

test('what a person installed with npm is taken as it is', async () => {
  fakeNpm(1)
  writeInstalled()
  await installPackages(root, state)
  expect(runs()).toBe(0)
})

test('an installation that failed says what npm said, and the next one starts from nothing', async () => {
  fakeNpm(1)
  await expect(installPackages(root, state)).rejects.toThrow(/npm says why/)
  // As if it had been killed: the mark is there, and so is npm's own record.
  writeInstalled()
  write('node_modules/left/half-unpacked', '')
  fakeNpm(0)
  await installPackages(root, state)
  expect(runs()).toBe(2)
  expect(existsSync(path.join(root, 'node_modules/left/half-unpacked'))).toBe(false)
  expect(existsSync(path.join(root, 'node_modules/.kvasir-stamp'))).toBe(true)
})

test('an installation agrees with the lock file when versions, checksums and wishes do', () => {
  expect(installedAgreesWithLock(root)).toBe(false)
  writeInstalled()
  expect(installedAgreesWithLock(root)).toBe(true)
  write('a/package.json', { dependencies: { right: '2.0.0' } })
  expect(installedAgreesWithLock(root)).toBe(false)
  write('a/package.json', { dependencies: { right: '2.0.0' }, bin: { a: 'a.js' } })
  const changed = { ...lock.packages, 'node_modules/left': { version: '1.0.0', integrity: 'sha512-other' } }
  write('package-lock.json', { packages: changed })
  expect(installedAgreesWithLock(root)).toBe(false)
})
