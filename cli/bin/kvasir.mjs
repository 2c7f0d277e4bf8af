#!/usr/bin/env node
/** The `kvasir` command. Says so where it was not built yet, or its packages are gone. */
import { existsSync } from 'node:fs'

const entry = new URL('../dist/main.js', import.meta.url)

function sayNotSetUp() {
  process.stderr.write('kvasir: not set up: run `npm run setup` in the project, then try again.\n')
  process.exitCode = 1
}

async function load() {
  if (!existsSync(entry)) return undefined
  try {
    return await import(entry.href)
  } catch (error) {
    if (error?.code === 'ERR_MODULE_NOT_FOUND') return undefined
    throw error
  }
}

const program = await load()
if (program === undefined) sayNotSetUp()
else await program.main(process.argv.slice(2))
