import { describe, expect, test } from 'vitest'
import type { ModelReport } from '../model-reports.js'
import { modelWithoutTemplate } from './testing/letter-model.js'
import { LETTERS, ON_GPU, type ScriptedService } from './testing/scripted-service.js'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

const plain = modelWithoutTemplate()
const arriving: ModelReport = {
  name: 'story',
  digest: 'd3',
  contextTokensMax: null,
  profiles: [],
  servedProfiles: [],
  devices: [
    {
      ...ON_GPU,
      state: 'fetching',
      numerics: null,
      weightBytes: null,
      kvBytes: null,
      bytes: 10,
      bytesTotal: 40,
      sourceDeviceId: 'fpga-0',
    },
  ],
}
const failed: ModelReport = {
  ...arriving,
  name: 'novel',
  digest: '',
  devices: [{ ...ON_GPU, state: 'failed', error: 'It lacks 3 GB.' }],
}

async function post(gateway: TestGateway, url: string, payload: object) {
  const response = await gateway.app.inject({ method: 'POST', url, payload })
  return { status: response.statusCode, body: response.json() }
}

const complete = (gateway: TestGateway, fields: object = {}) =>
  post(gateway, '/v1/completions', { model: 'letters', prompt: 'Hi', ...fields })

const answering = (service: ScriptedService) => {
  service.onSubmit = (generation) => generation.finish()
}

describe('the list of models', () => {
  test('tells of each device that has one, gets one, or could not', async () => {
    const gateway = await testGateway()
    gateway.service.modelReports = [LETTERS, arriving, failed]
    const { data } = (await gateway.app.inject({ url: '/v1/models' })).json()
    const [letters, without, story, novel] = data
    expect(letters).toMatchObject({ id: 'letters', object: 'model', owned_by: 'kvasir' })
    expect(letters.kvasir).toEqual({
      digest: 'd1',
      context_tokens_max: 100,
      chat: true,
      ready: true,
      profiles: ['exact'],
      devices: [
        {
          device_id: 'gpu-0',
          profile: 'exact',
          state: 'loaded',
          numerics: 'f32',
          weight_bytes: 4_000,
          kv_bytes: 1_000,
          bytes: 0,
          bytes_total: 0,
          source_device_id: null,
          error: null,
        },
      ],
    })
    expect(without.kvasir).toMatchObject({ digest: plain.digest, ready: false, profiles: [], devices: [] })
    expect(story.kvasir).toMatchObject({
      digest: 'd3',
      context_tokens_max: null,
      chat: null,
      ready: false,
      devices: [{ state: 'fetching', bytes: 10, bytes_total: 40, source_device_id: 'fpga-0' }],
    })
    expect(novel.kvasir).toMatchObject({
      digest: null,
      devices: [{ state: 'failed', error: 'It lacks 3 GB.' }],
    })
    expect((await gateway.app.inject({ url: '/v1/models/story' })).json()).toEqual(story)
    await gateway.close()
  })

  test('a model that cannot be asked for says why: on its way, failed, or unknown', async () => {
    const gateway = await testGateway()
    gateway.service.modelReports = [LETTERS, arriving, failed]
    const loading = await complete(gateway, { model: 'story' })
    expect(loading).toMatchObject({ status: 503, body: { error: { code: 'model_loading', param: 'model' } } })
    expect(loading.body.error.message).toContain('on its way to gpu-0')
    const broken = await complete(gateway, { model: 'novel' })
    expect(broken).toMatchObject({ status: 404, body: { error: { code: 'model_not_found' } } })
    expect(broken.body.error.message).toContain('gpu-0 could not load it: It lacks 3 GB.')
    const unknown = await complete(gateway, { model: 'poem' })
    expect(unknown.body.error.message).toBe('There is no model "poem" here. Use one of "letters", "plain".')
    await gateway.close()
  })
})

describe('loading', () => {
  test('asks every device that runs models, in the default profile, and tells each one’s answer', async () => {
    const gateway = await testGateway({ profileDefault: 'paper' })
    const answer = await post(gateway, '/v1/models/load', { model: '/models/tale.gguf', kv_bytes: 64 })
    expect(answer).toEqual({
      status: 202,
      body: { model: 'tale', profile: 'paper', devices: [{ device_id: 'gpu-0', error: null }] },
    })
    gateway.service.refusal = 'It lacks 3 GB.'
    const refused = await post(gateway, '/v1/models/load', { model: 'tale', profile: 'exact' })
    expect(refused.body.devices).toEqual([{ device_id: 'gpu-0', error: 'It lacks 3 GB.' }])
    expect(gateway.service.orders).toEqual([
      { model: '/models/tale.gguf', digest: '', profile: 'paper', kvBytes: 64 },
      { model: 'tale', digest: '', profile: 'exact', kvBytes: 0 },
    ])
    await gateway.close()
  })

  test('holds a name to the digest that it stands for', async () => {
    const gateway = await testGateway()
    await post(gateway, '/v1/models/load', { model: 'letters' })
    expect(gateway.service.orders).toMatchObject([{ model: 'letters', digest: 'd1' }])
    await gateway.close()
  })

  test('refuses unknown devices, wrong fields and an empty cluster', async () => {
    const gateway = await testGateway()
    const load = (fields: object) => post(gateway, '/v1/models/load', { model: 'tale', ...fields })
    expect(await load({ devices: ['gpu-0', 'npu-7'] })).toMatchObject({
      status: 404,
      body: { error: { code: 'device_not_found', param: 'devices' } },
    })
    for (const [fields, param] of [
      [{ digest: 'abc' }, 'digest'],
      [{ profile: 'fast' }, 'profile'],
      [{ devices: [] }, 'devices'],
      [{ kv_bytes: 0 }, 'kv_bytes'],
      [{ speed: 3 }, 'speed'],
    ] as const) {
      expect(await load(fields)).toMatchObject({ status: 400, body: { error: { param } } })
    }
    expect((await post(gateway, '/v1/models/load', {})).body.error.code).toBe('missing_required_parameter')
    const cluster = gateway.service.cluster()
    gateway.service.cluster = () => ({
      ...cluster,
      devices: cluster.devices.map((device) => ({ ...device, state: 'lost' as const })),
    })
    expect((await load({})).status).toBe(503)
    expect(gateway.service.orders).toEqual([])
    await gateway.close()
  })
})

describe('unloading', () => {
  const paper = { ...ON_GPU, deviceId: 'fpga-0', profile: 'paper' as const, numerics: 'w4a8+kv8' }

  test('goes to the devices that have the model, in all numerics or in one', async () => {
    const gateway = await testGateway()
    gateway.service.modelReports = [{ ...LETTERS, devices: [ON_GPU, paper] }]
    const answer = await post(gateway, '/v1/models/unload', { model: 'letters' })
    expect(answer).toEqual({
      status: 202,
      body: {
        model: 'letters',
        devices: [
          { device_id: 'gpu-0', profile: 'exact', error: null },
          { device_id: 'fpga-0', profile: 'paper', error: null },
        ],
      },
    })
    const one = await post(gateway, '/v1/models/unload', { model: 'letters', profile: 'paper' })
    expect(one.body.devices).toHaveLength(1)
    expect(gateway.service.orders.at(-1)).toEqual({ deviceId: 'fpga-0', digest: 'd1', profile: 'paper' })
    await gateway.close()
  })

  test('reaches a second model under a name, which requests do not, by its digest', async () => {
    const gateway = await testGateway()
    const digest = 'ab'.repeat(32)
    const second = { ...LETTERS, digest, devices: [{ ...ON_GPU, deviceId: 'gpu-1' }] }
    gateway.service.modelReports = [LETTERS, second]
    const answer = await post(gateway, '/v1/models/unload', { model: 'letters', digest })
    expect(answer.status).toBe(202)
    expect(gateway.service.orders).toEqual([{ deviceId: 'gpu-1', digest, profile: 'exact' }])
    const unknown = await post(gateway, '/v1/models/unload', { model: 'letters', digest: 'cd'.repeat(32) })
    expect(unknown.body.error.code).toBe('model_not_found')
    expect((await post(gateway, '/v1/models/unload', { model: 'letters', digest: 'd1' })).status).toBe(400)
    await gateway.close()
  })

  test('of what nobody has is refused', async () => {
    const gateway = await testGateway()
    const code = async (fields: object) => (await post(gateway, '/v1/models/unload', fields)).body.error.code
    expect(await code({ model: 'poem' })).toBe('model_not_found')
    expect(await code({ model: 'plain' })).toBe('model_not_found')
    expect(await code({ model: 'letters', profile: 'paper' })).toBe('model_not_found')
    expect(await code({ model: 'letters', devices: ['fpga-0'] })).toBe('device_not_found')
    expect(gateway.service.orders).toEqual([])
    await gateway.close()
  })
})

describe('numerics of a request', () => {
  test('are those it asks for, else the coordinator’s', async () => {
    const gateway = await testGateway({ profileDefault: 'paper' })
    answering(gateway.service)
    await complete(gateway)
    await complete(gateway, { profile: 'exact', kv: { merge_layers: 4 } })
    const [first, second] = gateway.service.submitted.map(({ request }) => request)
    expect(first).toMatchObject({ profile: 'paper', modelDigest: 'd1', mergeLayers: undefined })
    expect(second).toMatchObject({ profile: 'exact', mergeLayers: 4 })
    expect(await complete(gateway, { profile: 'fast' })).toMatchObject({
      status: 400,
      body: { error: { param: 'profile' } },
    })
    for (const kv of [{ merge_layers: 3 }, { layers: 1 }, 7]) {
      expect((await complete(gateway, { kv })).status).toBe(400)
    }
    await gateway.close()
  })

  test('that no device has the model in are refused at once where nothing stands in for them', async () => {
    const gateway = await testGateway()
    answering(gateway.service)
    gateway.service.modelReports = [{ ...LETTERS, profiles: ['paper'], servedProfiles: ['paper'] }]
    const refused = await complete(gateway)
    expect(refused).toMatchObject({
      status: 404,
      body: { error: { code: 'profile_not_loaded', param: 'profile' } },
    })
    expect(refused.body.error.message).toContain('Ask for "profile": "paper"')
    expect((await complete(gateway, { profile: 'paper' })).status).toBe(200)
    // Exact numerics stand in for the paper's.
    gateway.service.modelReports = [LETTERS]
    expect((await complete(gateway, { profile: 'paper' })).status).toBe(200)
    await gateway.close()
  })

  test('of a model with a sliding window leave no choice of attention', async () => {
    const gateway = await testGateway()
    answering(gateway.service)
    gateway.service.modelTraits = () => ({ profiles: ['exact'], slidingWindowTokens: 4_096 })
    for (const [attention, param] of [
      [{ method: 'page-bounds', budget: 32 }, 'attention.method'],
      [{ method: 'recent', budget: 32 }, 'attention.method'],
      [{ method: 'dense', place: 'partial' }, 'attention.place'],
    ] as const) {
      const refused = await complete(gateway, { attention })
      expect(refused).toMatchObject({
        status: 400,
        body: { error: { param, code: 'unsupported_parameter' } },
      })
      expect(refused.body.error.message).toContain('looks back 4096 tokens')
    }
    expect((await complete(gateway, { attention: { method: 'dense', place: 'local' } })).status).toBe(200)
    await gateway.close()
  })
})
