import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { AttentionWish } from '../generation.js'
import { scriptedService } from './testing/scripted-service.js'
import { type TestGateway, testGateway } from './testing/test-gateway.js'

let gateway: TestGateway

beforeAll(async () => {
  gateway = await testGateway({
    service: scriptedService({
      attention: {
        method: 'page-bounds',
        budgetPages: 2,
        promptPages: 5,
        place: 'partial',
        attendDevice: 'fpga-0',
        asked: true,
        reason: 'Asked.',
        pages: 200,
        pagesRead: 50,
        wireBytes: 4_096,
        remoteMs: 1,
      },
    }),
  })
  gateway.service.onSubmit = (generation) => generation.finish()
})
afterAll(async () => {
  await gateway.close()
})

const CHAT = '/v1/chat/completions'
const BODIES = {
  [CHAT]: { model: 'letters', messages: [{ role: 'user', content: 'hi' }] },
  '/v1/completions': { model: 'letters', prompt: 'hi' },
}

async function post(path: keyof typeof BODIES, attention: unknown) {
  return gateway.app.inject({
    method: 'POST',
    url: path,
    headers: { 'content-type': 'application/json' },
    payload: JSON.stringify({ ...BODIES[path], attention }),
  })
}

describe.each([CHAT, '/v1/completions'] as const)('%s takes', (path) => {
  test.each<[unknown, AttentionWish | undefined]>([
    [undefined, undefined],
    [null, undefined],
    [{}, { method: 'auto', budget: null, place: 'auto' }],
    [{ method: 'dense' }, { method: 'dense', budget: null, place: 'auto' }],
    [
      { method: 'dense', budget: null, place: 'partial' },
      { method: 'dense', budget: null, place: 'partial' },
    ],
    [
      { method: 'dense', place: 'indices' },
      { method: 'dense', budget: null, place: 'indices' },
    ],
    [
      { method: 'page-bounds', budget: 100, place: 'indices' },
      { method: 'page-bounds', budget: { tokens: 100 }, place: 'indices' },
    ],
    [
      { method: 'random', budget: '12.5%' },
      { method: 'random', budget: { share: 0.125 }, place: 'auto' },
    ],
    [
      { method: 'recent', budget: '100 %', place: 'local' },
      { method: 'recent', budget: { share: 1 }, place: 'local' },
    ],
  ])('%j', async (attention, wish) => {
    const response = await post(path, attention)
    expect(response.statusCode).toBe(200)
    expect(gateway.service.submitted.at(-1)?.request.attention).toEqual(wish)
  })
})

describe('refused with a reason:', () => {
  const bounds = { method: 'page-bounds', budget: 64 }
  test.each<[string, unknown, string, string, RegExp]>([
    ['a word', 'dense', 'attention', 'invalid_type', /expected object/],
    [
      'an unknown method',
      { method: 'h2o', budget: 1 },
      'attention.method',
      'invalid_value',
      /expected one of/,
    ],
    ['an unknown place', { ...bounds, place: 'moon' }, 'attention.place', 'invalid_value', /expected one of/],
    ['an unknown field', { ...bounds, k: 1 }, 'attention.k', 'unsupported_parameter', /not supported/],
    [
      'no budget',
      { method: 'page-bounds' },
      'attention.budget',
      'missing_required_parameter',
      /needs a budget/,
    ],
    ['a budget of 0', { ...bounds, budget: 0 }, 'attention.budget', 'invalid_value', /1 or more/],
    ['a budget below 0', { ...bounds, budget: -16 }, 'attention.budget', 'invalid_value', /1 or more/],
    ['half a token', { ...bounds, budget: 0.5 }, 'attention.budget', 'invalid_value', /such as "25%"/],
    [
      'a budget above the context',
      { ...bounds, budget: 101 },
      'attention.budget',
      'invalid_value',
      /context of 100/,
    ],
    ['0 %', { ...bounds, budget: '0%' }, 'attention.budget', 'invalid_value', /such as "25%"/],
    ['101 %', { ...bounds, budget: '101%' }, 'attention.budget', 'invalid_value', /such as "25%"/],
    [
      'a percentage that is none',
      { ...bounds, budget: '25' },
      'attention.budget',
      'invalid_value',
      /such as "25%"/,
    ],
    [
      'another percentage',
      { ...bounds, budget: '%25' },
      'attention.budget',
      'invalid_value',
      /such as "25%"/,
    ],
    [
      'a negative percentage',
      { ...bounds, budget: '-5%' },
      'attention.budget',
      'invalid_value',
      /such as "25%"/,
    ],
    [
      'a budget of wrong type',
      { ...bounds, budget: [64] },
      'attention.budget',
      'invalid_value',
      /such as "25%"/,
    ],
    [
      'a budget for dense',
      { method: 'dense', budget: 64 },
      'attention.budget',
      'invalid_value',
      /takes no budget/,
    ],
    ['a budget for auto', { budget: '25%' }, 'attention.budget', 'invalid_value', /takes no budget/],
    [
      'a place for random',
      { ...bounds, method: 'random', place: 'partial' },
      'attention.place',
      'invalid_value',
      /alone/,
    ],
    [
      'a place for recent',
      { ...bounds, method: 'recent', place: 'indices' },
      'attention.place',
      'invalid_value',
      /alone/,
    ],
  ])('%s', async (_what, attention, param, code, says) => {
    const before = gateway.service.submitted.length
    const response = await post(CHAT, attention)
    expect(response.statusCode).toBe(400)
    const { error } = response.json()
    expect(error).toMatchObject({ param, code, type: 'invalid_request_error' })
    expect(error.message).toMatch(says)
    expect(error.message).toMatch(/^[A-Z"].*\.$/)
    expect(gateway.service.submitted).toHaveLength(before)
  })
})

test('the answer says how it attended', async () => {
  const response = await post(CHAT, { method: 'page-bounds', budget: 32 })
  expect(response.json().kvasir.attention).toEqual({
    method: 'page-bounds',
    place: 'partial',
    attend_device: 'fpga-0',
    pages_read_share: 0.25,
  })
})
