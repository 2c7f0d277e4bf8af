/** The thread that computes points, one after another, for a PointPool. */
import { parentPort } from 'node:worker_threads'
import { InternalError } from '@kvasir/runtime/errors'
import type { Point } from '../study.js'
import { type PointReport, type PointTask, toSent } from './point-messages.js'

/** So that a point that tells its progress at every step does not drown the other side. */
const tellEveryMs = 100

const port = parentPort
if (port === null) throw new InternalError('point-worker.js runs as a worker thread.')

const send = (report: PointReport): void => port.postMessage(report)

port.on('message', async ({ module, input }: PointTask) => {
  try {
    send({ kind: 'done', result: await (await pointOf(module))(input, teller()) })
  } catch (error) {
    send({ kind: 'failed', error: toSent(error) })
  }
})

async function pointOf(module: string): Promise<Point<unknown, unknown>> {
  const { point } = (await import(module)) as { readonly point?: Point<unknown, unknown> }
  if (point === undefined) throw new InternalError(`${module} exports no point.`)
  return point
}

function teller(): (share: number) => void {
  let toldMs = Number.NEGATIVE_INFINITY
  return (share) => {
    const nowMs = performance.now()
    if (nowMs - toldMs < tellEveryMs) return
    toldMs = nowMs
    send({ kind: 'share', share })
  }
}
