/**
 * The types in which GGUF files store tensors: which there are and how many bytes they take.
 *
 * Quantised types cut every row into blocks of `elements`; a row is a whole number of blocks.
 */

/** Number in the file, elements and bytes of a block. */
const LAYOUTS = {
  F32: { number: 0, elements: 1, bytes: 4 },
  F16: { number: 1, elements: 1, bytes: 2 },
  Q4_0: { number: 2, elements: 32, bytes: 18 },
  Q4_1: { number: 3, elements: 32, bytes: 20 },
  Q5_0: { number: 6, elements: 32, bytes: 22 },
  Q5_1: { number: 7, elements: 32, bytes: 24 },
  Q8_0: { number: 8, elements: 32, bytes: 34 },
  Q4_K: { number: 12, elements: 256, bytes: 144 },
  Q5_K: { number: 13, elements: 256, bytes: 176 },
  Q6_K: { number: 14, elements: 256, bytes: 210 },
  BF16: { number: 30, elements: 1, bytes: 2 },
} as const

export type GgufTensorType = keyof typeof LAYOUTS

export interface BlockLayout {
  readonly elements: number
  readonly bytes: number
}

export function blockLayout(type: GgufTensorType): BlockLayout {
  return LAYOUTS[type]
}

export function tensorTypeNumber(type: GgufTensorType): number {
  return LAYOUTS[type].number
}

const BY_NUMBER = new Map<number, GgufTensorType>()
for (const [type, { number }] of Object.entries(LAYOUTS)) {
  if (isTensorType(type)) BY_NUMBER.set(number, type)
}

/** Undefined for a type that this engine does not read. */
export function tensorTypeOf(number: number): GgufTensorType | undefined {
  return BY_NUMBER.get(number)
}

/** Those that this engine does not read, for messages. */
const OTHER_NAMES: Readonly<Record<number, string>> = {
  10: 'Q2_K',
  11: 'Q3_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
}

export function tensorTypeName(number: number): string {
  return tensorTypeOf(number) ?? OTHER_NAMES[number] ?? `number ${number}`
}

export function isTensorType(name: string): name is GgufTensorType {
  return Object.hasOwn(LAYOUTS, name)
}

export const TENSOR_TYPE_NAMES: readonly string[] = Object.keys(LAYOUTS)
