/** Machines as data: what the kernel shows of them, file by file. Links are written as `-> target`. */
export type MachineFiles = Readonly<Record<string, string>>

function pciFunction(address: string, attributes: Readonly<Record<string, string>>): MachineFiles {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, text]) => [`sys/bus/pci/devices/${address}/${name}`, text]),
  )
}

/** Two sockets; an A100, a U280 with two functions, a PAC N3000, and cards that are no accelerators. */
export const mixedServer: MachineFiles = {
  'proc/cpuinfo': [
    'processor\t: 0\nmodel name\t: AMD EPYC 7313 16-Core Processor\ncpu MHz\t\t: 3000.0',
    'processor\t: 1\nmodel name\t: AMD EPYC 7313 16-Core Processor',
    'processor\t: 2\nmodel name\t: AMD EPYC 7313 16-Core Processor',
    'processor\t: 3\nmodel name\t: AMD EPYC 7313 16-Core Processor',
  ].join('\n\n'),
  'proc/meminfo': 'MemTotal:       263937112 kB\nMemFree:         1000000 kB\nMemAvailable:   200000000 kB\n',
  'sys/devices/system/node/node0/cpulist': '0-1\n',
  'sys/devices/system/node/node0/meminfo': 'Node 0 MemTotal:       131968556 kB\nNode 0 MemFree: 1 kB\n',
  'sys/devices/system/node/node1/cpulist': '2-3\n',
  'sys/devices/system/node/node1/meminfo': 'Node 1 MemTotal:       131968556 kB\n',
  'sys/devices/system/node/has_cpu': '0-1\n',
  ...pciFunction('0000:00:01.1', { vendor: '0x1022\n', device: '0x1483\n', class: '0x060400\n' }),
  ...pciFunction('0000:21:00.0', { vendor: '0x15b3\n', device: '0x101d\n', class: '0x020000\n' }),
  ...pciFunction('0000:3b:00.0', {
    vendor: '0x10de\n',
    device: '0x20b5\n',
    class: '0x030200\n',
    numa_node: '0\n',
    current_link_speed: '16.0 GT/s PCIe\n',
    current_link_width: '16\n',
    driver: '-> ../../../../bus/pci/drivers/nvidia',
  }),
  ...pciFunction('0000:5e:00.0', { vendor: '0x10de\n', device: '0x10f1\n', class: '0x040300\n' }),
  ...pciFunction('0000:86:00.0', {
    vendor: '0x10ee\n',
    device: '0x500c\n',
    class: '0x120000\n',
    numa_node: '1\n',
    current_link_speed: '8.0 GT/s PCIe\n',
    current_link_width: '8\n',
    driver: '-> ../../../../bus/pci/drivers/xclmgmt',
  }),
  ...pciFunction('0000:86:00.1', { vendor: '0x10ee\n', device: '0x500d\n', class: '0x120000\n' }),
  ...pciFunction('0000:af:00.0', { vendor: '0x8086\n', device: '0x0b30\n', class: '0x120000\n' }),
  ...pciFunction('0000:b0:00.0', { vendor: '0x8086\n', device: '0x1572\n', class: '0x020000\n' }),
}

/** A container with a memory limit and no accelerator, on a kernel without NUMA. */
export const smallContainer: MachineFiles = {
  'proc/cpuinfo':
    'processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n\nModel\t\t: Small Board Rev 1.4\n',
  'proc/meminfo': 'MemTotal:        8000000 kB\nMemAvailable:    6000000 kB\n',
  'sys/devices/system/cpu/online': '0\n',
  'sys/fs/cgroup/memory.max': '2147483648\n',
  'sys/fs/cgroup/memory.current': '1073741824\n',
}

/** Files that say nothing or nonsense, as virtual machines and broken firmware show them. */
export const garbledMachine: MachineFiles = {
  'proc/cpuinfo': 'no colon here\nprocessor : many\n\u0000\ufffd',
  'proc/meminfo': 'MemTotal: lots kB\n',
  'sys/fs/cgroup/memory.max': 'max\n',
  'sys/devices/system/node/node0/meminfo': '',
  'sys/devices/system/node/nodeX/cpulist': '0-3\n',
  ...pciFunction('0000:01:00.0', { vendor: '0x10de\n', device: '', class: '0x030200\n' }),
  ...pciFunction('0000:02:00.0', { vendor: 'NVIDIA\n', device: '0x20b5\n', class: '0x030200\n' }),
  ...pciFunction('0000:03:00.0', { vendor: '0x10ee\n', device: '0x5020\n' }),
  ...pciFunction('0000:04:00.0', {
    vendor: '0x10EE\n',
    device: '0x5020\n',
    class: '0x120000\n',
    numa_node: '-1\n',
    current_link_speed: 'Unknown\n',
    current_link_width: '255\n',
  }),
}
