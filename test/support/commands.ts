/** Commands as a user types them, in a state folder of the test's own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { projectRoot, until } from './cluster.js'

export interface CommandResult {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export class Workplace {
  readonly home = mkdtempSync(join(tmpdir(), 'kvasir-test-'))
  readonly #children = new Set<ChildProcess>()

  /** Starts a shell command in the project's root, in a process group of its own. */
  start(command: string, extra: Record<string, string> = {}): RunningCommand {
    const child = spawn('/bin/sh', ['-c', command], {
      cwd: projectRoot,
      env: { ...process.env, ...extra, KVASIR_HOME: this.home, NO_COLOR: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    this.#children.add(child)
    return new RunningCommand(command, child)
  }

  run(command: string, extra: Record<string, string> = {}): Promise<CommandResult> {
    return this.start(command, extra).ended()
  }

  /** Processes that belong to this folder, whoever their parent is by now. */
  processes(): { pid: number; command: string }[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .flatMap((name) => {
        try {
          const environment = readFileSync(`/proc/${name}/environ`, 'utf8')
          if (!environment.includes(`KVASIR_HOME=${this.home}`)) return []
          const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
          // A process that has ended but was not waited for yet has no command line.
          return command === '' ? [] : [{ pid: Number(name), command }]
        } catch {
          return []
        }
      })
  }

  async untilNoProcess(deadlineMs = 10_000): Promise<void> {
    await until('no process of this cluster is left', () => this.processes().length === 0, deadlineMs).catch(
      (error: Error) => {
        throw new Error(`${error.message}: ${JSON.stringify(this.processes())}`)
      },
    )
  }

  async close(): Promise<void> {
    for (const { pid } of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It ended by itself.
      }
    }
    await this.untilNoProcess()
    rmSync(this.home, { recursive: true, force: true })
  }
}

export class RunningCommand {
  stdout = ''
  stderr = ''
  readonly #ended: Promise<CommandResult>

  constructor(
    readonly command: string,
    readonly child: ChildProcess,
  ) {
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
    this.#ended = new Promise((done) => {
      child.once('close', (code) => done({ code, stdout: this.stdout, stderr: this.stderr }))
    })
  }

  ended(): Promise<CommandResult> {
    return this.#ended
  }

  /** Waits for output that matches; fails with all output when the command ends first. */
  async untilPrints(pattern: RegExp, deadlineMs = 90_000): Promise<RegExpExecArray> {
    await until(
      `"${this.command}" prints ${pattern}`,
      () => {
        if (pattern.test(this.stdout + this.stderr)) return true
        if (this.child.exitCode !== null) {
          throw new Error(
            `"${this.command}" ended with ${this.child.exitCode}:\n${this.stdout}${this.stderr}`,
          )
        }
        return false
      },
      deadlineMs,
    )
    return pattern.exec(this.stdout + this.stderr) as RegExpExecArray
  }
}
