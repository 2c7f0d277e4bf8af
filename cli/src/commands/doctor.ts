/** `kvasir doctor`: what this machine lacks and how to mend it. */
import type { Command } from 'commander'
import { checkMachine, type Finding } from '../doctor/checks.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import type { Run } from './run-command.js'

const marks = { ok: color.green('ok'), note: color.yellow('note'), problem: color.red('problem') }

export function doctorCommand(program: Command, run: Run): void {
  program
    .command('doctor')
    .description(
      'say what this machine lacks and how to mend it; exit code 1 where something prevents a start',
    )
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      run(async (): Promise<ExitCode> => {
        const findings = await checkMachine()
        const healthy = findings.every((finding) => finding.level !== 'problem')
        if (options.json) printJson({ healthy, findings })
        else show(findings, healthy)
        return healthy ? EXIT.ok : EXIT.failure
      }),
    )
}

function show(findings: readonly Finding[], healthy: boolean): void {
  print(renderTable(findings.map(({ level, subject, found }) => [marks[level], subject, found])))
  const remedies = findings.filter((finding) => finding.remedy !== null)
  if (remedies.length > 0) print('')
  for (const { subject, remedy } of remedies) print(`${color.bold(subject)}: ${remedy}`)
  print(
    healthy ? '\nKvasir can start on this machine.' : '\nKvasir cannot start until the problems are mended.',
  )
}
