/** `kvasir driver check`: whether a device's driver does what an agent relies on. */
import type { JudgedCase } from '@kvasir/engine/conformance/conformance'
import type { DeviceDriver } from '@kvasir/engine/device-driver'
import { EXACT, type Numerics, PAPER_FLOAT, PAPER_QUANTISED } from '@kvasir/engine/numerics'
import { InvalidInputError } from '@kvasir/runtime/errors'
import { type Command, Option } from 'commander'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { color, print, printJson } from '../terminal.js'
import type { Run } from './run-command.js'
import { modelDefault } from './up-options.js'

const numericsByName: Readonly<Record<string, Numerics>> = {
  exact: EXACT,
  paper: PAPER_QUANTISED,
  'paper-float': PAPER_FLOAT,
}

const marks = { passed: color.green('✓'), failed: color.red('✗'), skipped: color.dim('–') }

interface CheckOptions {
  readonly model: string
  readonly numerics: string
  readonly socket?: string
  readonly json?: boolean
}

export function driverCommand(program: Command, run: Run): void {
  program
    .command('driver')
    .description('work with the drivers of devices that are processes of their own')
    .command('check')
    .description(
      'run the conformance suite against a driver; exit code 1 where a case fails. Kernels that it does not declare are left out',
    )
    .argument('[command...]', 'starts the driver, after --; --socket PATH is added to it')
    .option('--socket <path>', 'connect to a driver that listens there')
    .option('--model <spec>', 'a small model that the driver can load', modelDefault)
    .addOption(
      new Option('--numerics <name>', 'in which numbers the model is loaded')
        .choices(Object.keys(numericsByName))
        .default('exact'),
    )
    .option('--json', 'print one JSON document')
    .action((command: string[], options: CheckOptions) =>
      run(async (): Promise<ExitCode> => {
        const { cases, driver } = await check(opener(command, options.socket), options)
        const count = (result: JudgedCase['result']) => cases.filter((one) => one.result === result).length
        const [passed, failed, skipped] = [count('passed'), count('failed'), count('skipped')]
        if (options.json) {
          const { model, numerics } = options
          printJson({ driver, model, numerics, passed, failed, skipped, cases })
        } else {
          print(`\n${passed} passed, ${failed} failed, ${skipped} left out`)
        }
        return failed === 0 ? EXIT.ok : EXIT.failure
      }),
    )
}

type Opener = () => Promise<DeviceDriver>

function opener(command: readonly string[], socket: string | undefined): Opener {
  if (command.length > 0 === (socket !== undefined)) {
    throw new InvalidInputError('Give either --socket PATH, or -- and a command that starts the driver.')
  }
  if (socket === undefined) {
    return async () => {
      const { startDriver } = await import('@kvasir/agent/socket-driver/open-driver')
      return startDriver(command.map(quoted).join(' '), 'check')
    }
  }
  return async () => {
    const { connectSocketDriver } = await import('@kvasir/agent/socket-driver/socket-driver')
    return connectSocketDriver({ socketPath: socket, agent: 'kvasir-driver-check' })
  }
}

/** For a shell. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`
}

async function check(open: Opener, { model, numerics: name, json }: CheckOptions) {
  // The suite is large, and no other command needs it.
  const { judgeDriver } = await import('@kvasir/engine/conformance/conformance')
  const numerics = numericsByName[name] ?? EXACT
  // One that does not come up at all fails as a command, not case by case.
  let first: DeviceDriver | undefined = await open()
  const driver = first.describe().name
  let suite = ''
  const cases = await judgeDriver(
    async () => {
      const device = first ?? (await open())
      first = undefined
      return { device, model, numerics }
    },
    (judged) => {
      if (json) return
      if (judged.suite !== suite) print(`${suite === '' ? '' : '\n'}${color.bold(judged.suite)}`)
      suite = judged.suite
      print(`  ${marks[judged.result]} ${judged.name}${judged.reason === '' ? '' : `: ${judged.reason}`}`)
    },
  )
  return { cases, driver }
}
