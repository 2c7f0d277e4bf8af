/**
 * A cluster for a bench: on free ports, in a state folder of its own that goes with it, so
 * that a bench runs beside whatever runs already and leaves nothing.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { UnavailableError } from '@kvasir/runtime/errors'
import type { ClusterWish } from '../supervisor/cluster-plan.js'
import { type LocalCluster, startCluster } from '../supervisor/local-cluster.js'
import { claimStateFolder } from '../supervisor/run-record.js'
import { say } from '../terminal.js'

export interface BenchClusterWish {
  readonly model: string
  readonly fpgas: number
  readonly linkBytesPerSecond?: number
  readonly agentFlags?: ClusterWish['agentFlags']
}

/** Runs `work` with a cluster that has ended, whatever happens, when this resolves. One at a time. */
export async function withBenchCluster<T>(
  wish: BenchClusterWish,
  signal: AbortSignal,
  work: (cluster: LocalCluster) => Promise<T>,
): Promise<T> {
  const home = mkdtempSync(path.join(os.tmpdir(), 'kvasir-bench-'))
  const homeBefore = process.env.KVASIR_HOME
  process.env.KVASIR_HOME = home
  try {
    const claim = claimStateFolder()
    if ('heldBy' in claim) throw new UnavailableError(`The folder ${home} is in use: try again.`)
    say(`starting a cluster with ${wish.model} …`)
    const cluster = await startCluster({
      wish: {
        model: wish.model,
        gpus: 1,
        fpgas: wish.fpgas,
        port: 0,
        linkBytesPerSecond: wish.linkBytesPerSecond,
        devicePrefix: '',
        ...(wish.agentFlags === undefined ? {} : { agentFlags: wish.agentFlags }),
      },
      natsUrl: undefined,
      claim,
      signal,
      say,
    })
    try {
      const lost = cluster.lost.then((reason): never => {
        throw new UnavailableError(reason)
      })
      return await Promise.race([work(cluster), lost])
    } finally {
      await cluster.stop()
      claim.release()
    }
  } finally {
    if (homeBefore === undefined) delete process.env.KVASIR_HOME
    else process.env.KVASIR_HOME = homeBefore
    rmSync(home, { recursive: true, force: true })
  }
}
