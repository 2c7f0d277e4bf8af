/**
 * GPU and FPGA cards on the PCI bus, from sysfs.
 *
 * A card is one slot: of its functions the lowest counts (an Alveo card shows its management
 * and its user function). A function whose ids cannot be read is no card.
 */
import { type CardKind, classifyCard } from './pci-vendors.js'
import { type SystemFiles, wholeNumber } from './system-files.js'

export interface PciCard {
  /** Bus address, such as 0000:3b:00.0. */
  readonly address: string
  /** Hexadecimal without prefix. */
  readonly vendorId: string
  /** Hexadecimal without prefix. */
  readonly deviceId: string
  readonly vendor: string
  readonly kind: CardKind
  /** -1 where unknown. */
  readonly numaNode: number
  /** Negotiated, a lane; 0 where unknown. */
  readonly linkGigatransfersPerSecond: number
  /** Negotiated; 0 where unknown. */
  readonly linkLanes: number
  /** Kernel driver bound to it; undefined where none is, so that nothing can use the card. */
  readonly driver: string | undefined
}

const devicesFolder = 'sys/bus/pci/devices'
/** What sysfs shows as the width of a link that is not trained. */
const lanesUnknown = 255

export function findCards(files: SystemFiles): PciCard[] {
  const bySlot = new Map<string, PciCard>()
  for (const address of files.names(devicesFolder)) {
    const card = readCard(files, address)
    const slot = address.replace(/\.[0-9a-f]$/, '')
    if (card !== undefined && !bySlot.has(slot)) bySlot.set(slot, card)
  }
  return [...bySlot.values()]
}

function readCard(files: SystemFiles, address: string): PciCard | undefined {
  const attribute = (name: string) => files.text(`${devicesFolder}/${address}/${name}`)
  const vendorId = hexadecimal(attribute('vendor'), 4)
  const deviceId = hexadecimal(attribute('device'), 4)
  const classCode = hexadecimal(attribute('class'), 6)
  if (vendorId === undefined || deviceId === undefined || classCode === undefined) return undefined
  const card = classifyCard(vendorId, deviceId, classCode)
  if (card === undefined) return undefined
  const lanes = wholeNumber(attribute('current_link_width')) ?? 0
  const numaNode = wholeNumber(attribute('numa_node')) ?? -1
  return {
    address,
    vendorId,
    deviceId,
    vendor: card.vendor,
    kind: card.kind,
    numaNode: numaNode >= 0 ? numaNode : -1,
    linkGigatransfersPerSecond: linkSpeed(attribute('current_link_speed')),
    linkLanes: lanes > 0 && lanes < lanesUnknown ? lanes : 0,
    driver: files.linkName(`${devicesFolder}/${address}/driver`),
  }
}

function hexadecimal(text: string | undefined, digits: number): string | undefined {
  const match = /^0x([0-9a-f]+)$/i.exec(text ?? '')?.[1]?.toLowerCase()
  return match?.length === digits ? match : undefined
}

/** From "16.0 GT/s PCIe" or "8 GT/s"; 0 from anything else, such as "Unknown". */
function linkSpeed(text: string | undefined): number {
  const match = /^(\d+(?:\.\d+)?) GT\/s/.exec(text ?? '')
  return match === null ? 0 : Number(match[1])
}
