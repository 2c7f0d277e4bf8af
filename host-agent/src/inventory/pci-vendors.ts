/**
 * Which PCI functions are accelerator cards, as data.
 *
 * A GPU vendor makes other things too (network cards, sound), so its functions count by class
 * code; a vendor of FPGAs alone counts by its id; Intel's FPGA cards by their device ids,
 * which are those that Linux's FPGA driver (dfl-pci) binds to.
 */
export type CardKind = 'gpu' | 'fpga'

interface VendorRule {
  readonly vendorId: string
  readonly vendor: string
  readonly kind: CardKind
  /** Device ids that count; all where absent. */
  readonly deviceIds?: readonly string[]
  /** Base classes (first byte of the class code) that count; all but bridges where absent. */
  readonly classes?: readonly string[]
}

const displayController = '03'
const processingAccelerator = '12'
const bridge = '06'

const rules: readonly VendorRule[] = [
  {
    vendorId: '8086',
    vendor: 'Intel',
    kind: 'fpga',
    deviceIds: ['09c4', '0b2b', '0b30', 'bcbd', 'bcc0', 'bcce'],
  },
  { vendorId: '10de', vendor: 'NVIDIA', kind: 'gpu', classes: [displayController] },
  { vendorId: '1002', vendor: 'AMD', kind: 'gpu', classes: [displayController, processingAccelerator] },
  { vendorId: '8086', vendor: 'Intel', kind: 'gpu', classes: [displayController] },
  { vendorId: '10ee', vendor: 'AMD Xilinx', kind: 'fpga' },
  { vendorId: '1172', vendor: 'Altera', kind: 'fpga' },
  { vendorId: '1204', vendor: 'Lattice', kind: 'fpga' },
  { vendorId: '1b59', vendor: 'Achronix', kind: 'fpga' },
  { vendorId: '1c2c', vendor: 'Silicom', kind: 'fpga', deviceIds: ['1000', '1001'] },
]

/**
 * What card a PCI function belongs to; undefined where it is no accelerator.
 * Ids and class are lower-case hexadecimal without prefix; the class has six digits.
 */
export function classifyCard(
  vendorId: string,
  deviceId: string,
  classCode: string,
): { readonly vendor: string; readonly kind: CardKind } | undefined {
  const baseClass = classCode.slice(0, 2)
  return rules.find((rule) => {
    if (rule.vendorId !== vendorId) return false
    if (rule.deviceIds !== undefined) return rule.deviceIds.includes(deviceId)
    return rule.classes === undefined ? baseClass !== bridge : rule.classes.includes(baseClass)
  })
}
