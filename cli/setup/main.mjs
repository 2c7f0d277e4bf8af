/** `npm run setup`: everything that a first start would set up, without starting. */
import { say } from './progress.mjs'
import { setUpThen } from './set-up.mjs'

await setUpThen(async () => say('everything is set up'))
