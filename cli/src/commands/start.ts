/** `kvasir start`, which `npm start` runs: a cluster, and a first request through it. */
import type { Command } from 'commander'
import { runSupervisor } from '../supervisor/run-supervisor.js'
import { say } from '../terminal.js'
import { runFirstRequest } from './first-request.js'
import type { Run } from './run-command.js'
import { addUpOptions, clusterWish, type UpOptions } from './up-options.js'

interface StartOptions extends UpOptions {
  readonly once?: boolean
}

export function startCommand(program: Command, run: Run): void {
  addUpOptions(program.command('start'))
    .description('start a local cluster, run a first request through it, and stay up')
    .option('--once', 'stop after the first request')
    .action((options: StartOptions) =>
      run(async () =>
        runSupervisor({
          wish: await clusterWish(options),
          natsUrl: options.nats,
          whenReady: async (cluster, signal) => {
            say(`the cluster is up at ${cluster.url}`)
            await runFirstRequest(cluster.url, signal)
            if (options.once) return 'end'
            say(`the cluster stays up at ${cluster.url}; Ctrl-C stops it`)
            return 'stay'
          },
        }),
      ),
    )
}
