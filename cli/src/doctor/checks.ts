/**
 * Looks at everything that a local cluster needs or could use.
 *
 * A `problem` prevents a start; a `note` costs something, which its remedy names. Every check
 * answers within a second and changes nothing.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, statfsSync } from 'node:fs'
import net from 'node:net'
import { type Inventory, takeInventory } from '@kvasir/host-agent/inventory/inventory'
import type { PciCard } from '@kvasir/host-agent/inventory/pci'
import { projectRoot } from '@kvasir/runtime/state-folder'
import { findExecutable } from '#setup/executables'
import { findNatsServer } from '#setup/nats-server'
import { nodeVersionProblem } from '#setup/node-version'
import { modelDefault } from '../commands/up-options.js'
import { formatBytes } from '../format.js'

export interface Finding {
  readonly subject: string
  readonly level: 'ok' | 'note' | 'problem'
  /** What is there. */
  readonly found: string
  /** What to do; null where nothing is to be done. */
  readonly remedy: string | null
}

/** The default cluster: four agents, a coordinator and nats-server, each with a Node of its own. */
const memoryBytesMin = 1.5e9
const diskBytesMin = 1e9
const sharedMemoryBytesMin = 64e6
const coresMin = 2
const portPreferred = 8080

export async function checkMachine(): Promise<Finding[]> {
  const inventory = takeInventory()
  return [
    checkNode(),
    checkNats(),
    checkDeathSignal(),
    checkModel(),
    checkCores(inventory),
    checkMemory(inventory),
    checkDisk(),
    checkSharedMemory(),
    await checkPort(portPreferred),
    ...checkCards(inventory.cards),
  ]
}

function ok(subject: string, found: string): Finding {
  return { subject, level: 'ok', found, remedy: null }
}

function checkNode(): Finding {
  const problem = nodeVersionProblem(process.versions.node)
  if (problem === undefined) return ok('Node', process.versions.node)
  return { subject: 'Node', level: 'problem', found: process.versions.node, remedy: problem }
}

function checkNats(): Finding {
  const subject = 'nats-server'
  const remedy = 'Run `npm run setup`, which gets it, or install it (Debian: `apt-get install nats-server`).'
  let program: string | undefined
  try {
    program = findNatsServer()
  } catch (error) {
    return {
      subject,
      level: 'problem',
      found: 'KVASIR_NATS_SERVER is wrong',
      remedy: String((error as Error).message),
    }
  }
  if (program === undefined) return { subject, level: 'problem', found: 'missing', remedy }
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8', timeout: 1000 })
  if (status === 0) return ok(subject, `${stdout.trim().replace(/^nats-server: /, '')} (${program})`)
  return { subject, level: 'problem', found: `${program} does not run`, remedy }
}

function checkDeathSignal(): Finding {
  const program = findExecutable('setpriv')
  if (program !== undefined) return ok('setpriv', program)
  return {
    subject: 'setpriv',
    level: 'note',
    found: 'missing',
    remedy:
      'Install util-linux: without it, a nats-server outlives a supervisor that is killed with kill -9, and agents take half a second to notice.',
  }
}

function checkModel(): Finding {
  if (existsSync(`${modelDefault}/model.safetensors`)) return ok('default model', modelDefault)
  return {
    subject: 'default model',
    level: 'problem',
    found: 'missing',
    remedy: `Restore ${modelDefault} from the repository, or give another model with --model.`,
  }
}

function checkCores({ processors, numaNodes }: Inventory): Finding {
  const nodes = numaNodes.length > 1 ? `, ${numaNodes.length} NUMA nodes` : ''
  const found = `${processors.cores} × ${processors.model}${nodes}`
  if (processors.cores >= coresMin) return ok('CPU', found)
  return {
    subject: 'CPU',
    level: 'note',
    found,
    remedy: 'With one core every device shares it: expect slow tokens.',
  }
}

function checkMemory({ memory }: Inventory): Finding {
  const limit = memory.limitBytes === undefined ? '' : ` (limited to ${formatBytes(memory.limitBytes)})`
  const found = `${formatBytes(memory.availableBytes)} free of ${formatBytes(memory.totalBytes)}${limit}`
  if (memory.totalBytes === 0 || memory.availableBytes >= memoryBytesMin) return ok('memory', found)
  return {
    subject: 'memory',
    level: 'note',
    found,
    remedy: `The default cluster takes about ${formatBytes(memoryBytesMin)}: free some, or start fewer agents with --fpgas 1.`,
  }
}

function checkDisk(): Finding {
  const { bavail, bsize } = statfsSync(projectRoot())
  const found = `${formatBytes(bavail * bsize)} free`
  if (bavail * bsize >= diskBytesMin) return ok('disk', found)
  return {
    subject: 'disk',
    level: 'note',
    found,
    remedy: `Free some: logs and NATS streams need up to ${formatBytes(diskBytesMin)}.`,
  }
}

function checkSharedMemory(): Finding {
  const folder = '/dev/shm'
  if (!existsSync(folder)) return ok(folder, 'not on this system')
  const { bavail, bsize } = statfsSync(folder)
  const found = `${formatBytes(bavail * bsize)} free`
  if (bavail * bsize >= sharedMemoryBytesMin) return ok(folder, found)
  return { subject: folder, level: 'note', found, remedy: 'Give the container more with --shm-size=256m.' }
}

async function checkPort(port: number): Promise<Finding> {
  const subject = `port ${port}`
  const free = await new Promise<boolean>((resolve) => {
    const server = net.createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
  if (free) return ok(subject, 'free')
  return {
    subject,
    level: 'note',
    found: 'taken',
    remedy: 'Nothing to do: the next free port is used and said plainly; --port asks for one by number.',
  }
}

/** Cards, and whether a driver makes them usable. */
function checkCards(cards: readonly PciCard[]): Finding[] {
  if (cards.length === 0) {
    return [ok('accelerators', 'none on the PCI bus: every device computes on the CPU, with real tokens')]
  }
  return cards.map((card) => {
    const subject = `${card.kind} ${card.address}`
    const link =
      card.linkLanes > 0 ? `, ${card.linkGigatransfersPerSecond} GT/s × ${card.linkLanes} lanes` : ''
    const found = `${card.vendor} ${card.vendorId}:${card.deviceId}${link}`
    if (card.driver !== undefined) return ok(subject, `${found}, driver ${card.driver}`)
    return {
      subject,
      level: 'note',
      found: `${found}, no driver`,
      remedy: `Install ${card.vendor}'s driver: without one nothing can use the card.`,
    }
  })
}
