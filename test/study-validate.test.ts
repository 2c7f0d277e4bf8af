/** A short `kvasir study validate`: a live paced cluster that loses an agent, and the same in virtual time. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, expect, test } from 'vitest'
import { projectRoot } from './support/cluster.js'
import { Workplace } from './support/commands.js'

const requests = 10
const testMs = 120_000

const workplace = new Workplace()
afterAll(() => workplace.close())

test(
  'the live half and the virtual half play the same requests, and nothing is left running',
  async () => {
    const { code, stdout, stderr } = await workplace.run(
      `node cli/bin/kvasir.mjs study validate --requests ${requests} --json`,
    )
    expect(code, stderr).toBe(0)
    const document = JSON.parse(stdout) as { readonly figures: Readonly<Record<string, number>> }
    const schema = JSON.parse(readFileSync(join(projectRoot, 'docs/schemas/study.json'), 'utf8')) as object
    const valid = new Ajv2020({ strict: true, allowUnionTypes: true }).compile(schema)
    expect(valid(document), JSON.stringify(valid.errors)).toBe(true)
    const { figures } = document
    expect(figures).toMatchObject({ requests, failedLive: 0, failedVirtual: 0 })
    // Of few requests on a busy machine the first token says little: the full run is what the errors are judged by.
    expect(figures.ttftError).toBeLessThan(3)
    expect(figures.tpotError).toBeLessThan(0.5)
    expect(figures.throughputError).toBeLessThan(0.5)
    expect(figures.lateStepShare).toBeLessThan(0.5)
    expect(readFileSync(join(workplace.home, 'studies/validate/report.html'), 'utf8')).toContain(
      'virtual time',
    )
    await workplace.untilNoProcess()
  },
  testMs,
)
