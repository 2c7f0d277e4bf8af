/**
 * Everything that must be there before Kvasir runs: node packages, generated and compiled
 * code, nats-server. Each step does nothing when it has nothing to do, and works again
 * after being killed at any point. One set-up runs at a time in a checkout.
 */
import path from 'node:path'
import { watchNpm } from './ancestors.mjs'
import { build } from './build.mjs'
import { waitForLock } from './lock.mjs'
import { obtainNatsServer } from './nats-server.mjs'
import { nodeVersionProblem } from './node-version.mjs'
import { installPackages } from './packages.mjs'
import { projectRoot, setupFolder } from './paths.mjs'
import { SetupError, say } from './progress.mjs'

const lockWaitMsMax = 15 * 60_000

/**
 * @returns {Promise<void>}
 * @throws {SetupError}
 */
async function setUp() {
  const problem = nodeVersionProblem(process.versions.node)
  if (problem !== undefined) throw new SetupError(problem)
  const lock = await waitForLock(path.join(setupFolder, 'lock'), {
    deadlineMs: lockWaitMsMax,
    onWait: (pid) => say(`process ${pid} is setting up; waiting for it …`),
  })
  try {
    await installPackages(projectRoot, setupFolder)
    await build(projectRoot, setupFolder)
    await obtainNatsServer()
  } finally {
    lock.release()
  }
}

/**
 * Sets up, then goes on; ends the process with one sentence where that fails, and at once
 * where the npm that started it is killed in the meantime.
 * @param {() => Promise<void>} next
 */
export async function setUpThen(next) {
  const watch = watchNpm(() => process.exit(1))
  try {
    await setUp()
  } catch (error) {
    say(sentenceOf(error))
    process.exit(1)
  }
  watch.stop()
  await next()
}

/**
 * What a person reads of an error; a stack only where it is a fault of set-up itself.
 * @param {unknown} error
 */
export function sentenceOf(error) {
  if (error instanceof SetupError) return error.message
  if (!(error instanceof Error)) return String(error)
  const { code, syscall } = /** @type {NodeJS.ErrnoException} */ (error)
  if (code === undefined || syscall === undefined) return error.stack ?? error.message
  return (
    `Set-up cannot work in ${projectRoot}: ${error.message}. ` +
    'It needs the right to write there and free disk space: mend that, then try again.'
  )
}
