/** `kvasir status`: whether a cluster runs, its processes, and what it is doing. */
import type { ClusterReport } from '@kvasir/coordinator/generation'
import type { Command } from 'commander'
import { callJson } from '../client/api-client.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatCount, formatDuration } from '../format.js'
import { lateText } from '../pace-text.js'
import { liveSupervisor, type RunRecord, readLiveRecord } from '../supervisor/run-record.js'
import { color, print, printJson, renderTable } from '../terminal.js'
import type { Run } from './run-command.js'

export function statusCommand(program: Command, run: Run): void {
  program
    .command('status')
    .description('say whether a cluster runs, its processes and its load; exit code 1 where none runs')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => run(() => status(options.json ?? false)))
}

async function status(json: boolean): Promise<ExitCode> {
  // A cluster that KVASIR_URL names is not this machine's: it has no record here.
  const isOurs = !process.env.KVASIR_URL
  const record = isOurs ? readLiveRecord() : undefined
  if (isOurs && record === undefined) {
    if (json) printJson({ running: false })
    else print(whyNot(liveSupervisor()?.pid))
    return EXIT.failure
  }
  const url = locateCluster()
  const cluster = await callJson<ClusterReport>(url, '/v1/cluster')
  if (json) printJson({ running: true, url, supervisor: record ?? null, cluster })
  else show(url, record, cluster)
  return EXIT.ok
}

function whyNot(supervisorPid: number | undefined): string {
  return supervisorPid === undefined
    ? 'No cluster runs here: start one with `npx kvasir up --detach`.'
    : `The cluster here is starting or stopping (process ${supervisorPid}): look again in a moment.`
}

function show(url: string, record: RunRecord | undefined, cluster: ClusterReport): void {
  print(`${color.bold('cluster')}  ${url}`)
  if (record !== undefined) {
    const sinceMs = Date.now() - Date.parse(record.startedAt)
    print(`supervisor  process ${record.pid}, up for ${formatDuration(sinceMs)}, version ${record.version}`)
  }
  const ready = cluster.devices.filter((device) => device.state === 'ready').length
  print(`devices     ${ready} of ${cluster.devices.length} ready`)
  print(`models      ${modelsOf(cluster)}`)
  print(`requests    ${cluster.activeRequests} active, ${cluster.queuedRequests} waiting`)
  print(
    `NATS        ${cluster.busConnected ? 'connected' : color.yellow('not connected; serving goes on without it')}`,
  )
  const paced = cluster.devices.filter(({ pace }) => pace !== null)
  if (paced.length > 0) print(`times       ${pacedText(paced)}`)
  if (record === undefined) return
  const rows = record.processes.map(({ name, pid, logFile }) => [
    name,
    pid === 0 ? color.yellow('starting again') : String(pid),
    color.dim(logFile),
  ])
  print(`\n${renderTable(rows, ['process', 'pid', 'log'])}`)
}

/** `modelled, not this machine's: 1 device as v100s, …; 3 of 1200 steps late`. */
function pacedText(devices: ClusterReport['devices']): string {
  const counts = new Map<string, number>()
  const sum = { steps: 0, lateSteps: 0, lateMs: 0 }
  for (const { pace } of devices) {
    if (pace === null) continue
    const name = `${pace.device} with ${pace.model} (${pace.preset})`
    counts.set(name, (counts.get(name) ?? 0) + 1)
    sum.steps += pace.steps
    sum.lateSteps += pace.lateSteps
    sum.lateMs += pace.lateMs
  }
  const names = [...counts].map(([name, count]) => `${formatCount(count, 'device')} as ${name}`)
  return `${color.yellow('modelled')}, not this machine's: ${names.join(', ')}; late steps ${lateText(sum)}`
}

/** Each with the number of devices that have it, in each profile. */
function modelsOf({ devices }: ClusterReport): string {
  const counts = new Map<string, number>()
  for (const { state, models } of devices) {
    if (state === 'lost') continue
    for (const { name, profile } of models) {
      const key = `${name} (${profile})`
      counts.set(key, (counts.get(key) ?? 0) + 1)
    }
  }
  const texts = [...counts].map(([name, count]) => `${name} on ${formatCount(count, 'device')}`)
  return texts.join(', ') || color.yellow('none is loaded')
}
