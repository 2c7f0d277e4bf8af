import { expect, test } from 'vitest'
import { type ClusterWish, planCluster } from './cluster-plan.js'

const wish: ClusterWish = {
  model: '/models/skald',
  gpus: 1,
  fpgas: 2,
  port: undefined,
  linkBytesPerSecond: undefined,
  devicePrefix: '',
}
const natsUrl = 'nats://127.0.0.1:4333'

test('the default cluster: a coordinator, a host, a gpu and two fpga agents', () => {
  const plan = planCluster(wish, natsUrl)
  expect(plan.coordinator.args).toEqual([
    ...['--nats', natsUrl, '--model', '/models/skald', '--port-preferred', '8080'],
  ])
  expect(plan.agents.map((agent) => [agent.name, agent.script])).toEqual([
    ['host-0', 'host-agent/dist/main.js'],
    ['gpu-0', 'gpu-agent/dist/main.js'],
    ['fpga-0', 'fpga-agent/dist/main.js'],
    ['fpga-1', 'fpga-agent/dist/main.js'],
  ])
  expect(plan.agents[0]?.args).toEqual(['--nats', natsUrl, '--device-id', 'host-0'])
  expect(plan.agents[1]?.args).toEqual([
    '--nats',
    natsUrl,
    '--device-id',
    'gpu-0',
    '--model',
    '/models/skald',
  ])
})

test('a port by name, a held link and a prefix reach every process they concern', () => {
  const plan = planCluster(
    { ...wish, port: 0, linkBytesPerSecond: 25_000_000, devicePrefix: 'rack1-' },
    natsUrl,
  )
  expect(plan.coordinator.args.slice(-2)).toEqual(['--port', '0'])
  for (const agent of plan.agents) {
    expect(agent.args).toContain(`rack1-${agent.name}`)
    expect(agent.args.slice(-2)).toEqual(['--link-bytes-per-second', '25000000'])
  }
})

test('sizes of memories reach the agents that have them', () => {
  const plan = planCluster({ ...wish, hbmBytes: 2_000_000, ddrBytes: 0, hostBytes: 3_000_000 }, natsUrl)
  const sizes = plan.agents.map(({ name, args }) => [name, args.slice(args.indexOf('--tier-bytes'))])
  expect(Object.fromEntries(sizes)).toEqual({
    'host-0': ['--tier-bytes', '3000000'],
    'gpu-0': ['--tier-bytes', '2000000'],
    'fpga-0': ['--tier-bytes', '2000000', '--ddr-bytes', '0'],
    'fpga-1': ['--tier-bytes', '2000000', '--ddr-bytes', '0'],
  })
})

test('what agents keep pace with reaches those of the kind', () => {
  const pace = {
    devices: { fpga: 'u280' },
    model: 'llama-2-7b',
    preset: 'glitches',
    catalogue: ['/own.yaml'],
  }
  const plan = planCluster({ ...wish, fpgas: 1, pace }, natsUrl)
  const paced = plan.agents.map(({ name, args }) => [
    name,
    args.filter((_, at) => args.indexOf('--pace-as') >= 0 && at >= args.indexOf('--pace-as')),
  ])
  expect(Object.fromEntries(paced)).toEqual({
    'host-0': [],
    'gpu-0': [],
    'fpga-0': [
      ...['--pace-as', 'u280', '--pace-model', 'llama-2-7b', '--pace-preset', 'glitches'],
      ...['--catalogue', '/own.yaml'],
    ],
  })
})

test('a cluster without a device that computes is refused', () => {
  expect(() => planCluster({ ...wish, gpus: 0, fpgas: 0 }, natsUrl)).toThrow(/at least one/)
})

test('a profile reaches the coordinator and whoever computes', () => {
  const plan = planCluster({ ...wish, profile: 'paper' }, natsUrl)
  const processes = [plan.coordinator, ...plan.agents]
  const told = processes.filter(({ args }) => args.join(' ').includes('--profile paper'))
  expect(told.map(({ name }) => name)).toEqual(['coordinator', 'gpu-0', 'fpga-0', 'fpga-1'])
})
