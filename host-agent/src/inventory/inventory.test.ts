import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { garbledMachine, type MachineFiles, mixedServer, smallContainer } from '../testing/machines.js'
import { takeInventory, toMachine } from './inventory.js'
import { type SystemFiles, systemFiles } from './system-files.js'

const roots: string[] = []

afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true, force: true })
})

function machine(files: MachineFiles): SystemFiles {
  const root = mkdtempSync(path.join(os.tmpdir(), 'kvasir-machine-'))
  roots.push(root)
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(root, name)
    mkdirSync(path.dirname(file), { recursive: true })
    if (text.startsWith('-> ')) symlinkSync(text.slice(3), file)
    else writeFileSync(file, text)
  }
  return systemFiles(root)
}

test('a server with a GPU and two FPGA cards is described whole', () => {
  expect(takeInventory(machine(mixedServer))).toEqual({
    processors: { model: 'AMD EPYC 7313 16-Core Processor', cores: 4 },
    numaNodes: [
      { id: 0, cpus: '0-1', memoryBytes: 131_968_556 * 1024 },
      { id: 1, cpus: '2-3', memoryBytes: 131_968_556 * 1024 },
    ],
    memory: {
      totalBytes: 263_937_112 * 1024,
      availableBytes: 200_000_000 * 1024,
      limitBytes: undefined,
    },
    cards: [
      {
        address: '0000:3b:00.0',
        vendorId: '10de',
        deviceId: '20b5',
        vendor: 'NVIDIA',
        kind: 'gpu',
        numaNode: 0,
        linkGigatransfersPerSecond: 16,
        linkLanes: 16,
        driver: 'nvidia',
      },
      {
        address: '0000:86:00.0',
        vendorId: '10ee',
        deviceId: '500c',
        vendor: 'AMD Xilinx',
        kind: 'fpga',
        numaNode: 1,
        linkGigatransfersPerSecond: 8,
        linkLanes: 8,
        driver: 'xclmgmt',
      },
      {
        address: '0000:af:00.0',
        vendorId: '8086',
        deviceId: '0b30',
        vendor: 'Intel',
        kind: 'fpga',
        numaNode: -1,
        linkGigatransfersPerSecond: 0,
        linkLanes: 0,
        driver: undefined,
      },
    ],
  })
})

test("a container's memory is what its control group allows", () => {
  const inventory = takeInventory(machine(smallContainer))
  expect(inventory.processors).toEqual({ model: 'Small Board Rev 1.4', cores: 1 })
  expect(inventory.memory).toEqual({
    totalBytes: 8_000_000 * 1024,
    availableBytes: 1 << 30,
    limitBytes: 2 ** 31,
  })
  expect(inventory.numaNodes).toEqual([{ id: 0, cpus: '0', memoryBytes: 8_000_000 * 1024 }])
})

test('garbled files are unknown, and the rest is still described', () => {
  const inventory = takeInventory(machine(garbledMachine))
  expect(inventory.processors).toEqual({ model: 'unknown CPU', cores: 1 })
  expect(inventory.memory).toEqual({ totalBytes: 0, availableBytes: 0, limitBytes: undefined })
  expect(inventory.numaNodes).toEqual([{ id: 0, cpus: '', memoryBytes: 0 }])
  expect(inventory.cards).toEqual([
    {
      address: '0000:04:00.0',
      vendorId: '10ee',
      deviceId: '5020',
      vendor: 'AMD Xilinx',
      kind: 'fpga',
      numaNode: -1,
      linkGigatransfersPerSecond: 0,
      linkLanes: 0,
      driver: undefined,
    },
  ])
})

test('an empty root gives an inventory without facts', () => {
  expect(takeInventory(machine({}))).toEqual({
    processors: { model: 'unknown CPU', cores: 1 },
    numaNodes: [{ id: 0, cpus: '', memoryBytes: 0 }],
    memory: { totalBytes: 0, availableBytes: 0, limitBytes: undefined },
    cards: [],
  })
})

test('an advertisement carries the inventory without what is local', () => {
  const message = toMachine(takeInventory(machine(mixedServer)), { id: 'm1', hostname: 'rack1' })
  expect(message).toMatchObject({
    id: 'm1',
    hostname: 'rack1',
    cpuCores: 4,
    numaNodes: 2,
    memoryBytes: 263_937_112n * 1024n,
  })
  expect(message.pciDevices.map((card) => card.address)).toEqual([
    '0000:3b:00.0',
    '0000:86:00.0',
    '0000:af:00.0',
  ])
  expect(message.pciDevices[0]).not.toHaveProperty('driver')
})
