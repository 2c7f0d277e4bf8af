#!/usr/bin/env node
/** The `kvasir` command. Says so where it was not built yet. */
import { existsSync } from 'node:fs'

const entry = new URL('../dist/main.js', import.meta.url)

if (existsSync(entry)) {
  const { main } = await import(entry.href)
  await main(process.argv.slice(2))
} else {
  process.stderr.write('kvasir: not built yet: run `npm run setup` in the project, then try again.\n')
  process.exitCode = 1
}
