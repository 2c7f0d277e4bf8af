/** `npm start [-- --once]`: sets up what is missing, then starts a cluster in this process. */
import { setUpThen } from './set-up.mjs'

await setUpThen(async () => {
  const { main } = await import(new URL('../dist/main.js', import.meta.url).href)
  await main(['start', ...process.argv.slice(2)])
})
