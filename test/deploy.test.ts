/** deploy/: what it names is there, and the cluster that its manifests describe serves. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { credentials, Metadata, makeGenericClientConstructor } from '@grpc/grpc-js'
import { agentSettings } from '@kvasir/agent/settings'
import { coordinatorConfigSchema } from '@kvasir/coordinator/config'
import { variableOf } from '@kvasir/runtime/setting-kinds'
import { startNatsServer, type TestNatsServer } from '@kvasir/runtime/testing/nats-server'
import * as apps from 'kubernetes-models/apps/v1'
import * as networking from 'kubernetes-models/networking.k8s.io/v1'
import * as core from 'kubernetes-models/v1'
import { afterAll, describe, expect, test } from 'vitest'
import { projectRoot, until } from './support/cluster.js'
import { type RunningCommand, Workplace } from './support/commands.js'
import { kustomization, manifests, type Pod, pods } from './support/manifests.js'

const units = join(projectRoot, 'deploy/systemd')
const known = {
  agent: Object.keys(agentSettings.shape).map(variableOf),
  coordinator: Object.keys(coordinatorConfigSchema.shape).map(variableOf),
}
const variables = (text: string) => [...text.matchAll(/\b(KVASIR_[A-Z_]+)=/g)].map(([, name]) => name ?? '')

describe('the manifests', () => {
  const { Namespace, Service } = core
  const { DaemonSet, Deployment, StatefulSet } = apps
  const { NetworkPolicy } = networking
  const classes = { Namespace, Service, DaemonSet, Deployment, StatefulSet, NetworkPolicy }

  test('are valid objects of Kubernetes', () => {
    const all = manifests()
    expect(all.length).toBeGreaterThan(10)
    for (const manifest of all) {
      const Kind = Object.entries(classes).find(([kind]) => kind === manifest.kind)?.[1]
      if (Kind === undefined) throw new Error(`${manifest.kind} is not known`)
      new Kind(manifest as never).validate()
    }
  })

  test('select the pods that they make', () => {
    for (const { kind, metadata, spec } of manifests()) {
      if (!['Deployment', 'StatefulSet', 'DaemonSet'].includes(kind)) continue
      const { selector, template } = spec as {
        selector: { matchLabels: object }
        template: { metadata: { labels: object } }
      }
      expect(template.metadata.labels, metadata.name).toMatchObject(selector.matchLabels)
    }
  })

  test('give each process a script that there is, and settings that it has', () => {
    const own = pods((index) => `127.0.7.${index + 1}`).filter(({ image }) => image === 'kvasir')
    expect(own.map(({ name }) => name)).toEqual([
      'coordinator-x0',
      'host-agent-x0',
      'gpu-agent-0',
      'fpga-agent-0',
      'fpga-agent-1',
    ])
    for (const { name, command, environment } of own) {
      expect(command[0]).toBe('node')
      expect(existsSync(join(projectRoot, command.at(-1) ?? '')), command.join(' ')).toBe(true)
      const settings = name.startsWith('coordinator') ? known.coordinator : known.agent
      const named = Object.keys(environment).filter((variable) => variable.startsWith('KVASIR_'))
      expect(settings).toEqual(expect.arrayContaining(named))
    }
  })

  const kubectl = spawnSync('kubectl', ['kustomize', join(projectRoot, 'deploy/kubernetes/base')], {
    encoding: 'utf8',
  })
  test.skipIf(kubectl.error !== undefined)('are put together by kubectl, all in one namespace', () => {
    expect(kubectl.stderr).toBe('')
    const { namespace } = kustomization()
    const objects = kubectl.stdout.split(/^---$/m)
    expect(objects).toHaveLength(manifests().length + 2)
    for (const object of objects) {
      expect(object).toMatch(/kind: Namespace/.test(object) ? / name: kvasir/ : `namespace: ${namespace}`)
    }
  })
})

describe('the systemd units', () => {
  test('start scripts that there are, with settings that they have', () => {
    const files = readdirSync(units).filter((file) => file.endsWith('.service'))
    expect(files).toHaveLength(4)
    for (const file of files) {
      const text = readFileSync(join(units, file), 'utf8')
      const script = /^ExecStart=\/usr\/bin\/node (?:--\S+ )*(\S+\.js)/m.exec(text)?.[1] ?? ''
      expect(existsSync(join(projectRoot, script)), `${file}: ${script}`).toBe(true)
    }
    const cluster = variables(readFileSync(join(units, 'cluster.env'), 'utf8'))
    expect(cluster.length).toBeGreaterThan(2)
    expect(known.agent).toEqual(expect.arrayContaining(cluster))
    const coordinator = variables(readFileSync(join(units, 'coordinator.env'), 'utf8'))
    expect(known.coordinator).toEqual(expect.arrayContaining([...cluster, ...coordinator]))
  })

  const verified = spawnSync('systemd-analyze', ['--version'])
  test.skipIf(verified.error !== undefined)('are units that systemd reads', () => {
    const files = readdirSync(units).filter((file) => file.endsWith('.service'))
    const { stderr } = spawnSync('systemd-analyze', ['verify', ...files.map((file) => join(units, file))], {
      encoding: 'utf8',
    })
    // That the programs are installed here is not asked for.
    expect(
      stderr.split('\n').filter((line) => line !== '' && !/not executable|not-found/.test(line)),
    ).toEqual([])
  })
})

describe('the cluster of the manifests', () => {
  const workplace = new Workplace()
  let nats: TestNatsServer | undefined
  afterAll(async () => {
    await workplace.close()
    await nats?.close()
  })

  /** As a kubelet: the standard health service, at the pod's address. */
  const healthOf = async ({ ip }: Pod): Promise<string> => {
    const encode = () => Buffer.alloc(0)
    const Health = makeGenericClientConstructor(
      {
        check: {
          path: '/grpc.health.v1.Health/Check',
          requestStream: false,
          responseStream: false,
          requestSerialize: encode,
          requestDeserialize: encode,
          responseSerialize: encode,
          responseDeserialize: (bytes: Buffer) => bytes,
        },
      },
      'health',
    )
    const client = new Health(`${ip}:7001`, credentials.createInsecure())
    const ask = client.check?.bind(client)
    const answer = await new Promise<Buffer | undefined>((resolve) => {
      ask?.({}, new Metadata(), { deadline: Date.now() + 2_000 }, (_error: unknown, bytes?: Buffer) =>
        resolve(bytes),
      )
    })
    client.close()
    // HealthCheckResponse.status = SERVING
    return answer?.toString('hex') ?? ''
  }

  test('serves a request, each pod at an address of its own', { timeout: 120_000 }, async () => {
    nats = await startNatsServer()
    const own = pods((index) => `127.0.7.${index + 1}`).filter(({ image }) => image === 'kvasir')
    const running: RunningCommand[] = []
    for (const pod of own) {
      const isCoordinator = pod.name.startsWith('coordinator')
      const port = isCoordinator ? { KVASIR_PORT: '0' } : {}
      running.push(
        workplace.start(`exec ${pod.command.join(' ')}`, {
          ...pod.environment,
          KVASIR_NATS: nats.url,
          ...port,
        }),
      )
    }
    const ready = await running[0]?.untilPrints(/"port":(\d+)/)
    const url = `http://127.0.0.1:${ready?.[1]}`
    await until('the readiness probe succeeds', async () => (await fetch(`${url}/health/ready`)).ok, 90_000)
    for (const pod of own.slice(1)) {
      await until(`the probe of ${pod.name} succeeds`, async () => (await healthOf(pod)) === '0801', 30_000)
    }
    await until(
      'the coordinator knows all devices',
      async () => {
        const { devices } = (await (await fetch(`${url}/v1/cluster`)).json()) as { devices: object[] }
        return devices.length === own.length - 1
      },
      30_000,
    )
    const answer = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'skald', prompt: 'Once upon a time', max_tokens: 12 }),
    })
    const { usage, kvasir } = (await answer.json()) as {
      usage: object
      kvasir: { request_id: string }
    }
    expect(usage).toMatchObject({ completion_tokens: 12 })
    const report = await fetch(`${url}/v1/requests/${kvasir.request_id}`)
    expect(await report.json()).toMatchObject({
      placements: [
        { prefillDevice: 'gpu-agent-0', decodeDevice: expect.stringMatching(/^fpga-agent-[01]$/) },
      ],
    })
  })
})
