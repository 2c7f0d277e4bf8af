import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { loadConfig, loadProcessConfig, parseFlags } from './config.js'
import { InvalidInputError } from './errors.js'

const schema = z
  .object({
    deviceId: z.string().min(1),
    kvPort: z.number().int().min(0).max(65_535).default(0),
    tierBytes: z.number().positive().optional(),
    seed: z.bigint().default(7n),
    verbose: z.boolean().default(false),
    model: z.array(z.string()).default([]),
    weights: z.array(z.number()).optional(),
    limits: z.strictObject({ queueMax: z.number().int() }).default({ queueMax: 4 }),
  })
  .refine((settings) => settings.kvPort !== 1, { message: 'port 1 is not for KV', path: ['kvPort'] })
  .refine((settings) => !(settings.verbose && settings.seed === 0n), 'verbose needs a seed')

const folder = mkdtempSync(join(tmpdir(), 'kvasir-config-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function yaml(name: string, text: string): string {
  const file = join(folder, name)
  writeFileSync(file, text)
  return file
}

describe('loadConfig', () => {
  test('takes flags over environment over file over defaults', () => {
    const file = yaml('all.yaml', 'deviceId: from-file\nkvPort: 1000\ntierBytes: 64\nlimits: {queueMax: 9}\n')
    const environment = { KVASIR_KV_PORT: '2000', KVASIR_TIER_BYTES: '128', PATH: '/bin', KVASIR_OTHER: 'x' }
    const config = loadConfig(schema, { file, environment, flags: { kvPort: 3000, verbose: undefined } })
    expect(config).toEqual({
      deviceId: 'from-file',
      kvPort: 3000,
      tierBytes: 128,
      seed: 7n,
      verbose: false,
      model: [],
      limits: { queueMax: 9 },
    })
  })

  test('turns text into the types of the settings', () => {
    const environment = {
      KVASIR_DEVICE_ID: '12',
      KVASIR_SEED: '-5',
      KVASIR_VERBOSE: 'yes',
      KVASIR_MODEL: 'a, b',
      KVASIR_WEIGHTS: '1,2.5',
      KVASIR_KV_PORT: '',
    }
    expect(loadConfig(schema, { environment })).toMatchObject({
      deviceId: '12',
      seed: -5n,
      verbose: true,
      model: ['a', 'b'],
      weights: [1, 2.5],
      kvPort: 0,
    })
  })

  test('is frozen, all the way down', () => {
    const config = loadConfig(schema, { flags: { deviceId: 'x' } })
    expect(Object.isFrozen(config)).toBe(true)
    expect(Object.isFrozen(config.limits)).toBe(true)
    expect(Object.isFrozen(config.model)).toBe(true)
  })

  test.each([
    ['a missing setting', {}, 'deviceId', /deviceId is missing: set it by --device-id, KVASIR_DEVICE_ID/],
    ['a wrong flag', { flags: { deviceId: 'x', kvPort: 99_999 } }, 'kvPort', /kvPort \(from --kv-port\)/],
    [
      'a wrong variable',
      { flags: { deviceId: 'x' }, environment: { KVASIR_KV_PORT: 'http' } },
      'kvPort',
      /\(from KVASIR_KV_PORT\) is not valid: .*expected number/,
    ],
    ['an unknown flag', { flags: { deviceID: 'x' } }, 'deviceID', /does not exist; did you mean deviceId/],
    [
      'a contradiction with a key',
      { flags: { deviceId: 'x', kvPort: 1 } },
      'kvPort',
      /is not valid: port 1 is not for KV/,
    ],
    [
      'a contradiction',
      { flags: { deviceId: 'x', verbose: true, seed: 0n } },
      undefined,
      /contradict each other: verbose needs a seed/,
    ],
    [
      'an unknown inner key',
      { flags: { deviceId: 'x', limits: { queueMax: 1, other: 2 } } },
      'limits.other',
      /no such setting/,
    ],
  ])('refuses %s, naming it', (_name, sources, param, message) => {
    const load = () => loadConfig(schema, sources)
    expect(load).toThrow(InvalidInputError)
    expect(load).toThrow(message)
    try {
      load()
    } catch (error) {
      expect(error).toHaveProperty('param', param)
    }
  })

  test('refuses files that are missing, malformed, no mapping, or name unknown settings', () => {
    const load = (file: string) => () => loadConfig(schema, { file, flags: { deviceId: 'x' } })
    expect(load(join(folder, 'absent.yaml'))).toThrow(/Cannot read the settings file .*absent.yaml/)
    expect(load(yaml('bad.yaml', 'a: [1'))).toThrow(/Cannot read the settings file/)
    expect(load(yaml('list.yaml', '- a'))).toThrow(/must be a mapping/)
    expect(load(yaml('unknown.yaml', 'kv_port: 1'))).toThrow(/unknown.yaml names a setting kv_port .*kvPort/)
    expect(load(yaml('empty.yaml', ''))()).toMatchObject({ deviceId: 'x' })
  })
})

describe('flags', () => {
  test('are read in all their forms', () => {
    const argv = [
      '--device-id',
      'gpu-0',
      '--kv-port=5',
      '--verbose',
      '--model',
      'a',
      '--model=b',
      '--weights',
      '2',
    ]
    expect(parseFlags(argv, schema)).toEqual({
      deviceId: 'gpu-0',
      kvPort: 5,
      verbose: true,
      model: ['a', 'b'],
      weights: [2],
    })
    expect(parseFlags(['--no-verbose'], schema)).toEqual({ verbose: false })
    expect(parseFlags(['--verbose=no', '--device-id', '--odd'], schema)).toEqual({
      verbose: false,
      deviceId: '--odd',
    })
  })

  test.each([
    [['--device-idd', 'x'], /--device-idd is not an option; did you mean --device-id/],
    [['stray'], /stray is not an option; there are --device-id, /],
    [['--device-id'], /--device-id needs a value/],
    [['--kv-port', '1', '--kv-port', '2'], /--kv-port is given more than once/],
    [['--no-device-id'], /--no-device-id is not an option/],
    [['--limits', '{}'], undefined],
  ])('%s', (argv, message) => {
    if (message === undefined) expect(() => loadProcessConfig(schema, argv, {})).toThrow(InvalidInputError)
    else expect(() => parseFlags(argv, schema)).toThrow(message)
  })

  test('name a settings file', () => {
    const file = yaml('process.yaml', 'deviceId: from-file\nkvPort: 10\n')
    expect(loadProcessConfig(schema, ['--config', file], {})).toMatchObject({ kvPort: 10 })
    expect(loadProcessConfig(schema, [`--config=${file}`, '--kv-port', '11'], {})).toMatchObject({
      kvPort: 11,
    })
    expect(loadProcessConfig(schema, [], { KVASIR_CONFIG: file })).toMatchObject({ deviceId: 'from-file' })
    expect(() => loadProcessConfig(schema, ['--config'], {})).toThrow(/--config needs a value/)
  })
})
