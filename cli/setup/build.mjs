/**
 * Generates TypeScript from proto/ and compiles every package, when sources are newer than
 * the last build that succeeded.
 *
 * Invariants:
 * B1 A stamp is the fingerprint of what was built; it is taken before and written after the
 *    build, so an edit in between builds again.
 * B2 While the compiler runs the stamp says `building`. Finding that means that a build was
 *    killed: incremental state is then dropped, since it may describe files never written.
 * B3 After a build, dist holds nothing whose source is gone.
 */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { writeAtomic } from './atomic-file.mjs'
import { filesUnder, fingerprintOfTimes, readStamp } from './fingerprint.mjs'
import { SetupError, step } from './progress.mjs'
import { runOnTerminal, runQuietly } from './run-tool.mjs'

const building = 'building'

/**
 * @param {string} root
 * @param {string} stateFolder where stamps are kept
 * @returns {Promise<void>}
 */
export async function build(root, stateFolder) {
  mkdirSync(stateFolder, { recursive: true })
  await generate(root, path.join(stateFolder, 'generate.stamp'))
  await compile(root, path.join(stateFolder, 'compile.stamp'))
}

/**
 * @param {string} root
 * @param {string} stampFile
 */
async function generate(root, stampFile) {
  const proto = path.join(root, 'proto')
  const sources = filesUnder(path.join(proto, 'kvasir')).map((file) => path.join('kvasir', file))
  const fingerprint = fingerprintOfTimes(proto, [...sources, 'buf.yaml', 'buf.gen.yaml'])
  const outputs = sources.map((file) => path.join(proto, 'gen', file.replace(/\.proto$/, '.ts')))
  if (readStamp(stampFile) === fingerprint && outputs.every((file) => existsSync(file))) return
  rmSync(stampFile, { force: true })
  await step('generating code from proto', () =>
    runQuietly(
      'generating code from proto',
      process.execPath,
      [path.join(root, 'node_modules', '@bufbuild', 'buf', 'bin', 'buf'), 'generate'],
      { cwd: proto },
    ),
  )
  writeAtomic(stampFile, fingerprint)
}

/**
 * @param {string} root
 * @param {string} stampFile
 */
async function compile(root, stampFile) {
  const packages = packagesOf(root)
  const fingerprint = fingerprintOfTimes(root, inputs(root, packages))
  const stamp = readStamp(stampFile)
  const damaged = packages.filter((folder) => stamp === building || missesOutput(root, folder))
  if (stamp === fingerprint && damaged.length === 0) return
  for (const { folder } of damaged) rmSync(path.join(root, folder, 'dist', '.tsbuildinfo'), { force: true })
  writeAtomic(stampFile, building)
  await step('compiling', async () => {
    const compiler = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
    if ((await runOnTerminal(process.execPath, [compiler, '-b'], { cwd: root })) === 0) return
    rmSync(stampFile, { force: true })
    throw new SetupError('The sources do not compile: mend the errors above, then try again.')
  })
  for (const folder of packages) removeStale(root, folder)
  writeAtomic(stampFile, fingerprint)
}

/**
 * @typedef {object} BuiltPackage
 * @property {string} folder relative to the root
 * @property {string} sources folder of its sources, relative to the package
 */

/**
 * The packages that the root tsconfig.json refers to.
 * @param {string} root
 * @returns {BuiltPackage[]}
 */
function packagesOf(root) {
  const { references } = JSON.parse(readFileSync(path.join(root, 'tsconfig.json'), 'utf8'))
  return references.map((/** @type {{ path: string }} */ reference) => ({
    folder: reference.path,
    sources: reference.path === 'proto' ? 'gen' : 'src',
  }))
}

/**
 * @param {string} root
 * @param {BuiltPackage[]} packages
 */
function inputs(root, packages) {
  const files = ['tsconfig.json', 'tsconfig.base.json']
  for (const { folder, sources } of packages) {
    files.push(path.join(folder, 'tsconfig.json'), path.join(folder, 'package.json'))
    const inside = path.join(folder, sources)
    for (const file of filesUnder(path.join(root, inside))) files.push(path.join(inside, file))
  }
  const setup = path.join('cli', 'setup')
  for (const file of filesUnder(path.join(root, setup))) {
    if (file.endsWith('.mjs')) files.push(path.join(setup, file))
  }
  return files
}

/**
 * @param {string} root
 * @param {BuiltPackage} built
 */
function missesOutput(root, { folder, sources }) {
  const dist = path.join(root, folder, 'dist')
  // Declarations count: the compiler takes its own record of them as true and never writes them again.
  return filesUnder(path.join(root, folder, sources)).some(
    (file) =>
      /(?<!\.d)\.ts$/.test(file) &&
      ['.js', '.d.ts'].some((end) => !existsSync(path.join(dist, file.replace(/\.ts$/, end)))),
  )
}

/**
 * @param {string} root
 * @param {BuiltPackage} built
 */
function removeStale(root, { folder, sources }) {
  const dist = path.join(root, folder, 'dist')
  for (const file of filesUnder(dist)) {
    const stem = /^(.*?)\.(js|js\.map|d\.ts)$/.exec(file)?.[1]
    if (stem === undefined || existsSync(path.join(root, folder, sources, `${stem}.ts`))) continue
    rmSync(path.join(dist, file))
  }
}
