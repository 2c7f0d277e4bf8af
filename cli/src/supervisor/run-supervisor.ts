/**
 * The life of a supervisor: claims the state folder, starts the cluster, does what it was
 * started for, stays until it is asked to end, stops everything.
 *
 * Invariants:
 * V1 The first SIGINT, SIGTERM or SIGHUP stops in order; a second one ends at once, and the
 *    kernel ends the children. A second SIGTERM does not: `kvasir down` may be typed twice.
 * V2 When the npm that started it is killed, it ends at once, and the kernel ends the children.
 * V3 However it ends, the next supervisor can start: a record it left is known to be stale.
 */

import { CancelledError, UnavailableError } from '@kvasir/runtime/errors'
import { watchNpm } from '#setup/ancestors'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { say } from '../terminal.js'
import type { ClusterWish } from './cluster-plan.js'
import { type LocalCluster, startCluster } from './local-cluster.js'
import { type ClusterClaim, claimStateFolder, readLiveRecord } from './run-record.js'

export interface SupervisorJob {
  readonly wish: ClusterWish
  readonly natsUrl: string | undefined
  /** Runs once the cluster serves; resolves to whether the cluster stays up. */
  readonly whenReady: (cluster: LocalCluster, signal: AbortSignal) => Promise<'stay' | 'end'>
}

export async function runSupervisor(job: SupervisorJob): Promise<ExitCode> {
  const claim = claimOrThrow()
  const stop = stopSignal()
  const npm = watchNpm(() => {
    claim.release()
    process.exit(EXIT.failure)
  })
  try {
    return await superviseUntilEnd(job, claim, stop)
  } finally {
    npm.stop()
    claim.release()
  }
}

async function superviseUntilEnd(
  job: SupervisorJob,
  claim: ClusterClaim,
  stop: AbortSignal,
): Promise<ExitCode> {
  let cluster: LocalCluster
  try {
    say('starting a local cluster …')
    cluster = await startCluster({ wish: job.wish, natsUrl: job.natsUrl, claim, signal: stop, say })
  } catch (error) {
    if (stop.aborted) return EXIT.interrupted
    throw error
  }
  const stopped = new Promise<'stopped'>((resolve) => {
    if (stop.aborted) resolve('stopped')
    stop.addEventListener('abort', () => resolve('stopped'))
  })
  const lost = cluster.lost.then((reason) => ({ reason }))
  const work = job.whenReady(cluster, stop).catch((error: unknown) => {
    // Work that a stop interrupted has not failed.
    if (stop.aborted) return 'stay' as const
    throw error
  })
  try {
    const outcome = await Promise.race([work, stopped, lost])
    if (outcome === 'end') return EXIT.ok
    const end = outcome === 'stay' ? await Promise.race([stopped, lost]) : outcome
    if (end === 'stopped') {
      say('stopping …')
      return EXIT.ok
    }
    throw new UnavailableError(end.reason)
  } finally {
    await cluster.stop()
    say('everything has stopped')
  }
}

function claimOrThrow(): ClusterClaim {
  const claim = claimStateFolder()
  if ('heldBy' in claim) throw runsAlready(claim.heldBy)
  return claim
}

/** The refusal of a second cluster in the same state folder. */
export function runsAlready(pid: number): UnavailableError {
  const url = readLiveRecord()?.url
  return new UnavailableError(
    `A cluster runs here already (process ${pid}${url === undefined ? ', still starting or stopping' : `, ${url}`}): ` +
      'use it, stop it with `npx kvasir down`, or set KVASIR_HOME to another folder for a second one.',
  )
}

/** Aborts at the first signal; a second one ends the process (V1). */
function stopSignal(): AbortSignal {
  const controller = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted && name === 'SIGTERM') return
      if (controller.signal.aborted) process.exit(EXIT.interrupted)
      controller.abort(new CancelledError(`The supervisor was asked to end by ${name}.`))
    })
  }
  return controller.signal
}
