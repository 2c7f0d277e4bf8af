/**
 * node-llama-cpp, what our engine is compared with: installed from the npm registry the first time, into the
 * cache, never a dependency of the project.
 *
 * L1 Only prebuilt binaries for the processor are fetched: no install script runs, nothing is compiled or
 *    downloaded from elsewhere.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { messageOf, UnavailableError, UnsupportedError } from '@kvasir/runtime/errors'
import { cacheFolder } from '@kvasir/runtime/state-folder'
import { say } from '../terminal.js'

const version = '3.22.1'
const installMsMax = 300_000

const BINARIES: Readonly<Record<string, string>> = {
  'linux-x64': 'linux-x64',
  'linux-arm64': 'linux-arm64',
  'darwin-x64': 'mac-x64',
  'darwin-arm64': 'mac-arm64-metal',
}

/**
 * URL of the module. `npm`: what is run in place of npm, for tests. Throws UnavailableError, one sentence, where it cannot
 * be installed, UnsupportedError for a machine that it has no binaries for.
 */
export async function installedNodeLlama(npm = 'npm'): Promise<string> {
  const binaries = BINARIES[`${process.platform}-${process.arch}`]
  if (binaries === undefined) {
    throw new UnsupportedError(
      `node-llama-cpp has no binaries for ${process.platform} on ${process.arch}; run this bench on another machine.`,
    )
  }
  const folder = join(cacheFolder(), `node-llama-cpp-${version}`)
  const entry = join(folder, 'node_modules', 'node-llama-cpp', 'dist', 'index.js')
  if (!existsSync(entry)) await install(npm, folder, binaries)
  return pathToFileURL(entry).href
}

async function install(npm: string, folder: string, binaries: string): Promise<void> {
  say(`installing node-llama-cpp ${version} into ${folder} …`)
  const unfinished = `${folder}.${process.pid}`
  try {
    await mkdir(unfinished, { recursive: true })
    // Without one of its own npm would install into the project around it.
    await writeFile(join(unfinished, 'package.json'), JSON.stringify({ private: true }))
    const packages = [`node-llama-cpp@${version}`, `@node-llama-cpp/${binaries}@${version}`]
    const settings = ['--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund', '--loglevel=error']
    await promisify(execFile)(npm, ['install', ...settings, ...packages], {
      cwd: unfinished,
      timeout: installMsMax,
    })
    await rm(folder, { recursive: true, force: true })
    await rename(unfinished, folder)
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true }).catch(() => undefined)
    throw new UnavailableError(
      `node-llama-cpp ${version} cannot be installed (${reasonOf(error)}); this bench needs npm and the npm registry.`,
      { cause: error },
    )
  }
}

/** npm's own last words rather than the command line that failed. */
function reasonOf(error: unknown): string {
  const output = error instanceof Error && 'stderr' in error ? String(error.stderr) : ''
  const lines = output
    .split('\n')
    .map((line) => line.replace(/^npm (error|ERR!) ?/, '').trim())
    .filter((line) => line !== '' && !/^npm warn/i.test(line))
  return (lines[0] ?? messageOf(error)).replace(/\.$/, '')
}
