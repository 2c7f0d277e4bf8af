/**
 * What a running cluster leaves for other commands: `.kvasir/run/cluster.json`.
 *
 * Invariants:
 * R1 Only the supervisor that holds the folder's lock writes or removes the record.
 * R2 A record whose supervisor is dead (process id and start time) counts as none, so a
 *    supervisor that was killed needs no cleaning before the next one starts.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { SOFTWARE_VERSION } from '@kvasir/runtime/protocol'
import { runRecordPath } from '@kvasir/runtime/state-folder'
import { writeAtomic } from '#setup/atomic-file'
import { lockHolder, tryLock } from '#setup/lock'
import { identify, isAlive, type ProcessIdentity } from '#setup/process-identity'

export interface RecordedProcess {
  readonly name: string
  readonly pid: number
  readonly logFile: string
}

export interface RunRecord {
  /** The supervisor. */
  readonly pid: number
  /** Its start time as the kernel gives it, so that a reused id is not taken for it. */
  readonly pidStart: string
  /** Base URL of the HTTP API. */
  readonly url: string
  readonly natsUrl: string
  /** ISO 8601. */
  readonly startedAt: string
  readonly version: string
  readonly processes: readonly RecordedProcess[]
}

export type NewRecord = Pick<RunRecord, 'url' | 'natsUrl' | 'startedAt' | 'processes'>

/** The right to run a cluster from this state folder. */
export interface ClusterClaim {
  write(record: NewRecord): void
  /** Removes the record and gives the folder free. Idempotent. */
  release(): void
}

/** Takes the state folder, or says which supervisor has it. */
export function claimStateFolder(): ClusterClaim | { readonly heldBy: number } {
  const lock = tryLock(lockFolder())
  if ('heldBy' in lock) return lock
  removeLeftovers()
  return {
    write: (record) => {
      const { pid, start } = identify(process.pid)
      const whole: RunRecord = { pid, pidStart: start, version: SOFTWARE_VERSION, ...record }
      writeAtomic(runRecordPath(), `${JSON.stringify(whole, null, 2)}\n`)
    },
    release: () => {
      removeLeftovers()
      lock.release()
    },
  }
}

/** The supervisor that has the state folder, also while it starts or stops and so has no record. */
export function liveSupervisor(): ProcessIdentity | undefined {
  return lockHolder(lockFolder())
}

/** Where nats-server of a supervisor keeps its streams. */
export function natsFolder(supervisorPid: number): string {
  return path.join(runFolder(), `nats-${supervisorPid}`)
}

/** The record of a cluster whose supervisor lives. */
export function readLiveRecord(): RunRecord | undefined {
  const record = readRecord()
  return record !== undefined && isAlive({ pid: record.pid, start: record.pidStart }) ? record : undefined
}

function readRecord(): RunRecord | undefined {
  if (!existsSync(runRecordPath())) return undefined
  try {
    const record: unknown = JSON.parse(readFileSync(runRecordPath(), 'utf8'))
    return isRecord(record) ? record : undefined
  } catch {
    return undefined
  }
}

function isRecord(value: unknown): value is RunRecord {
  return (
    typeof value === 'object' &&
    value !== null &&
    'pid' in value &&
    typeof value.pid === 'number' &&
    'pidStart' in value &&
    typeof value.pidStart === 'string' &&
    'url' in value &&
    typeof value.url === 'string' &&
    'processes' in value &&
    Array.isArray(value.processes)
  )
}

/** What this or a killed supervisor left; its processes died with it. */
function removeLeftovers(): void {
  rmSync(runRecordPath(), { force: true })
  for (const name of readdirSync(runFolder())) {
    if (name.startsWith('nats-')) rmSync(path.join(runFolder(), name), { recursive: true, force: true })
  }
}

function lockFolder(): string {
  return path.join(runFolder(), 'lock')
}

function runFolder(): string {
  return path.dirname(runRecordPath())
}
