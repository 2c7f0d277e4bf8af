/**
 * `npm test [-- FILTER…]`: sets up what is missing, runs every test, and ends with the line
 * `N passed, N failed`. Finding no test is a failure, and so is a test file that cannot run.
 */
import { runTests } from './run-tests.mjs'
import { setUpThen } from './set-up.mjs'

await setUpThen(async () => {
  process.exitCode = (await runTests(process.argv.slice(2))) ? 0 : 1
})
