import { describe, expect, test } from 'vitest'
import { InvalidInputError } from './errors.js'
import { checkDeviceId, controlSubject, deviceOfSubject, kvSubject, loadSubject } from './subjects.js'

describe('subjects', () => {
  test('carry the device id', () => {
    expect(loadSubject('gpu-0')).toBe('kvasir.load.gpu-0')
    expect(loadSubject('*')).toBe('kvasir.load.*')
    expect(kvSubject('fpga_1')).toBe('kvasir.kv.fpga_1')
    expect(deviceOfSubject(controlSubject('host-0'))).toBe('host-0')
  })

  test.each(['', 'a.b', 'a b', '>', '*', 'ü', 'x'.repeat(65)])('refuse the id "%s"', (id) => {
    expect(() => checkDeviceId(id)).toThrow(InvalidInputError)
  })
})
