/** Runs vitest and counts what it reports. */
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { watchNpm } from './ancestors.mjs'
import { findNatsServer } from './nats-server.mjs'
import { projectRoot, setupFolder } from './paths.mjs'
import { runOnTerminal } from './run-tool.mjs'

/**
 * @typedef {object} VitestReport
 * @property {number} numPassedTests
 * @property {number} numFailedTests
 * @property {{ status: string, assertionResults: unknown[] }[]} testResults
 */

/**
 * Runs the tests and prints `N passed, N failed` as the last line.
 * @param {string[]} args passed on to vitest
 * @returns {Promise<boolean>} whether all passed and there was at least one
 */
export async function runTests(args) {
  watchNpm(() => process.exit(1))
  mkdirSync(setupFolder, { recursive: true })
  const reportFile = path.join(setupFolder, `tests.${process.pid}.json`)
  const vitest = path.join(projectRoot, 'node_modules', 'vitest', 'vitest.mjs')
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`]
  const code = await runOnTerminal(process.execPath, [vitest, 'run', ...reporters, ...args], {
    cwd: projectRoot,
    // Tests that start processes use the program that set-up found.
    environment: { KVASIR_NATS_SERVER: findNatsServer() },
  })
  const { passed, failed } = countTests(readReport(reportFile), code)
  rmSync(reportFile, { force: true })
  process.stdout.write(`${passed} passed, ${failed} failed\n`)
  return failed === 0 && passed > 0
}

/**
 * Counts tests. A file that could not run counts as one failed test, and so does a runner
 * that failed without naming a test.
 * @param {VitestReport | undefined} report
 * @param {number} exitCode
 * @returns {{ passed: number, failed: number }}
 */
export function countTests(report, exitCode) {
  if (report === undefined) return { passed: 0, failed: 1 }
  const broken = report.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.length === 0,
  )
  const passed = report.numPassedTests
  const failed = report.numFailedTests + broken.length
  const silentlyFailed = failed === 0 && (exitCode !== 0 || passed === 0)
  return { passed, failed: silentlyFailed ? 1 : failed }
}

/**
 * @param {string} file
 * @returns {VitestReport | undefined}
 */
function readReport(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}
