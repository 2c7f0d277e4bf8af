/**
 * How fast bytes go through a plain socket between two processes: what a transfer's rate is measured
 * against, in the same run on the same machine. Both ends are processes of their own, so that what this
 * one does besides costs them nothing.
 */
import { fileURLToPath } from 'node:url'
import { awaitReady, type Child, spawnChild } from '@kvasir/runtime/lifecycle'

const readyMsMax = 10_000
const readMsMax = 60_000
const stopMsMax = 2_000

/** Bytes a second over loopback. */
export async function rawTcpBytesPerSecond(bytes: number): Promise<number> {
  const sender = spawnEnd('raw-tcp-sender', [])
  try {
    const { port } = await awaitReady(sender, readyMsMax)
    const receiver = spawnEnd('raw-tcp-receiver', [String(port), String(bytes)])
    try {
      return Number((await awaitReady(receiver, readMsMax)).bytesPerSecond)
    } finally {
      await receiver.stop(stopMsMax)
    }
  } finally {
    await sender.stop(stopMsMax)
  }
}

/** A script of this folder, as a process of its own. */
export function spawnEnd(name: string, args: readonly string[], nodeFlags: readonly string[] = []): Child {
  const script = fileURLToPath(new URL(`../../dist/bench/${name}.js`, import.meta.url))
  return spawnChild(process.execPath, [...nodeFlags, script, ...args], { name })
}
