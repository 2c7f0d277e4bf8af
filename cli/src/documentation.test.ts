/** docs/configuration.md and docs/schemas name everything that can be set and printed. */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { agentSettings } from '@kvasir/agent/settings'
import { coordinatorConfigSchema } from '@kvasir/coordinator/config'
import { flagOf, variableOf } from '@kvasir/runtime/setting-kinds'
import { projectRoot } from '@kvasir/runtime/state-folder'
import type { Command } from 'commander'
import { expect, test } from 'vitest'
import { createProgram } from './main.js'

const page = readFileSync(path.join(projectRoot(), 'docs/configuration.md'), 'utf8')

function section(title: string): string {
  const begin = page.indexOf(`## ${title}\n`)
  expect(begin).toBeGreaterThan(0)
  return page.slice(begin, page.indexOf('\n## ', begin + 1))
}

for (const { title, keys } of [
  { title: 'Agents', keys: Object.keys(agentSettings.shape) },
  { title: 'Coordinator', keys: Object.keys(coordinatorConfigSchema.shape) },
]) {
  test(`${title}: every setting has its row, and every row its setting`, () => {
    const rows = [...section(title).matchAll(/^\| `(\w+)` +\| `(\S+)` +\| `(\w+)` +\|/gm)]
    const documented = rows.map(([, key, flag, variable]) => ({ key, flag, variable }))
    expect(keys.length).toBeGreaterThan(5)
    expect(documented).toEqual(keys.map((key) => ({ key, flag: flagOf(key), variable: variableOf(key) })))
  })
}

/** Commands that do something, with their whole names. */
function* leaves(command: Command, name = ''): Generator<{ name: string; command: Command }> {
  if (command.commands.length === 0) yield { name, command }
  for (const child of command.commands) yield* leaves(child, `${name} ${child.name()}`.trim())
}

test('every option of every command is documented', () => {
  const text = section('The command line')
  const flags = [...leaves(createProgram())].flatMap(({ command }) =>
    command.options.map((option) => option.long),
  )
  expect(flags.length).toBeGreaterThan(15)
  expect(flags.filter((flag) => !text.includes(`\`${flag}\``))).toEqual([])
})

test('every command with --json has a schema', () => {
  const printing = [...leaves(createProgram())].filter(({ command }) =>
    command.options.some((option) => option.long === '--json'),
  )
  expect(printing.length).toBeGreaterThan(7)
  for (const { name } of printing) {
    const file = path.join(projectRoot(), 'docs/schemas', `${name.split(' ')[0]}.json`)
    expect(existsSync(file), file).toBe(true)
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ type: 'object' })
  }
})
