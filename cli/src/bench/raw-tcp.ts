/**
 * How fast bytes go through a plain socket from another process to this one: what a transfer's
 * rate is measured against, in the same run on the same machine.
 */
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import { withDeadline } from '@kvasir/runtime/deferred'
import { awaitReady, spawnChild } from '@kvasir/runtime/lifecycle'

const readyMsMax = 10_000
const readMsMax = 60_000
const stopMsMax = 2_000
/** Not measured: the socket's windows grow and code is compiled. */
const warmUpBytes = 64 << 20

/** Bytes a second over loopback. */
export async function rawTcpBytesPerSecond(bytes: number): Promise<number> {
  const script = fileURLToPath(new URL('../../dist/bench/raw-tcp-sender.js', import.meta.url))
  const child = spawnChild(process.execPath, [script], { name: 'raw-tcp-sender' })
  try {
    const { port } = await awaitReady(child, readyMsMax)
    return await withDeadline(readFrom(Number(port), bytes), readMsMax, 'measuring a plain socket')
  } finally {
    await child.stop(stopMsMax)
  }
}

function readFrom(port: number, bytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1')
    let read = 0
    let begin = 0
    socket.on('data', (data) => {
      read += data.length
      if (begin === 0 && read >= warmUpBytes) {
        begin = performance.now()
        read = 0
      } else if (begin > 0 && read >= bytes) {
        socket.destroy()
        resolve(read / ((performance.now() - begin) / 1000))
      }
    })
    socket.on('error', reject)
  })
}
