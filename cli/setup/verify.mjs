/** `npm run verify`: everything that a change must pass. Runs all of it, then says what failed. */
import path from 'node:path'
import { projectRoot } from './paths.mjs'
import { say } from './progress.mjs'
import { runTests } from './run-tests.mjs'
import { runOnTerminal } from './run-tool.mjs'
import { setUpThen } from './set-up.mjs'

const packages = path.join(projectRoot, 'node_modules')

/** @type {[what: string, script: string, args: string[], folder?: string][]} */
const checks = [
  ['format and lint', '@biomejs/biome/bin/biome', ['check', '.']],
  ['protobuf lint', '@bufbuild/buf/bin/buf', ['lint'], 'proto'],
  // The tests between processes are no part of what is built to run.
  ['types', 'typescript/bin/tsc', ['-b', '.', 'test']],
  ['dead code', 'knip/bin/knip.js', []],
  ['copied code', 'jscpd/bin/jscpd', ['.']],
]

await setUpThen(async () => {
  const failed = []
  for (const [what, script, args, folder = '.'] of checks) {
    say(`${what} …`)
    const code = await runOnTerminal(process.execPath, [path.join(packages, script), ...args], {
      cwd: path.join(projectRoot, folder),
    })
    if (code !== 0) failed.push(what)
  }
  say('tests …')
  if (!(await runTests([]))) failed.push('tests')
  say(failed.length === 0 ? 'verify: everything passed' : `verify: failed: ${failed.join(', ')}`)
  process.exitCode = failed.length === 0 ? 0 : 1
})
