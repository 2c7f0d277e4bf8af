/**
 * Weights in a GGUF file, tensor by tensor, under the names and in the row order of the engine.
 *
 * W1 `read`, `readRows` and `rows` give the f32 that ggml would; `packed` gives the stored quants themselves.
 * W2 Rows are moved whole, so undoing the paired rows of q and k (tensor-names.ts) loses nothing.
 */
import { closeSync, openSync } from 'node:fs'
import { InvalidInputError, UnsupportedError } from '@kvasir/runtime/errors'
import type { WeightSource } from '../weight-source.js'
import { rowReader } from './dequantize.js'
import { damaged, type GgufHeader, type OpenGguf, readExactly } from './gguf-header.js'
import { packedLayout, rowPacker } from './pack-rows.js'
import { ggufTensorName, hasPairedRows, pairedRow } from './tensor-names.js'
import { blockLayout, type GgufTensorType, TENSOR_TYPE_NAMES, tensorTypeName } from './tensor-types.js'

export interface GgufWeightsOptions {
  readonly path: string
  readonly header: GgufHeader
  readonly architecture: string
  readonly headDim: number
}

/** What is read at once: large enough for the disk, small beside a tensor. */
const PIECE_BYTES = 4 << 20

interface FoundTensor {
  readonly type: GgufTensorType
  readonly start: number
  readonly rows: number
  readonly columns: number
  readonly rowBytes: number
  /** Rows come in groups within which they are moved. */
  readonly group: number
}

export function openGgufWeights({ path, header, architecture, headDim }: GgufWeightsOptions): WeightSource {
  const file: OpenGguf = { path, descriptor: openSync(path, 'r') }

  /** The tensor as stored, its shape and type checked. */
  const find = (tensor: string, shape: readonly number[]): FoundTensor => {
    const name = ggufTensorName(tensor)
    const found = header.tensors.get(name)
    if (found === undefined) throw damaged(path, `it has no tensor ${name}`)
    if (found.shape.length !== shape.length || found.shape.some((size, i) => size !== shape[i])) {
      throw new InvalidInputError(
        `The tensor ${name} in ${path} has shape [${found.shape}] where its metadata says [${shape}]; fetch the model again.`,
      )
    }
    if (found.type === undefined) {
      throw new UnsupportedError(
        `The tensor ${name} in ${path} has the type ${tensorTypeName(found.typeNumber)}; use a file whose types are among ${TENSOR_TYPE_NAMES.join(', ')}.`,
      )
    }
    const columns = shape[shape.length - 1] ?? 0
    const { elements, bytes } = blockLayout(found.type)
    return {
      type: found.type,
      start: found.start,
      rows: shape.length === 1 ? 1 : (shape[0] ?? 0),
      columns,
      rowBytes: (columns / elements) * bytes,
      group: hasPairedRows(architecture, tensor) ? headDim : 1,
    }
  }

  /** Calls `visit` for each of our rows from `first` on, with where it lies in the bytes of a piece. */
  const visitRows = (
    { start, rowBytes, group }: FoundTensor,
    first: number,
    count: number,
    visit: (row: number, bytes: Uint8Array, at: number) => void,
  ) => {
    const groupsOfPiece = Math.max(1, Math.floor(PIECE_BYTES / (rowBytes * group)))
    const end = first + count
    let bytes = new Uint8Array(0)
    for (let row = first; row < end; ) {
      const from = row - (row % group)
      const to = Math.min(from + groupsOfPiece * group, Math.ceil(end / group) * group)
      const size = (to - from) * rowBytes
      if (bytes.length < size) bytes = new Uint8Array(size)
      readExactly(file, bytes.subarray(0, size), start + from * rowBytes)
      for (; row < Math.min(to, end); row++) {
        const stored = group === 1 ? row : pairedRow(row, group)
        visit(row, bytes, (stored - from) * rowBytes)
      }
    }
  }

  const readRange = (tensor: FoundTensor, first: number, target: Float32Array) => {
    const { type, columns } = tensor
    const readRow = rowReader(type)
    visitRows(tensor, first, target.length / columns, (row, bytes, at) => {
      const offset = (row - first) * columns
      readRow(bytes, at, target.subarray(offset, offset + columns))
    })
  }

  return {
    read: (name, shape, target) => readRange(find(name, shape), 0, target),
    readRows: (name, shape, firstRow, target) => readRange(find(name, shape), firstRow, target),
    rows(name, shape) {
      const tensor = find(name, shape)
      const bytes = new Uint8Array(tensor.rows * tensor.rowBytes)
      readExactly(file, bytes, tensor.start)
      const readRow = rowReader(tensor.type)
      return (row, target) => readRow(bytes, row * tensor.rowBytes, target)
    },
    packed(name, shape) {
      const tensor = find(name, shape)
      const packer = rowPacker(tensor.type, tensor.rows, tensor.columns)
      if (packer === undefined) return undefined
      visitRows(tensor, 0, tensor.rows, (row, bytes, at) => packer.pack(bytes, at, row))
      return packer.matrix
    },
    storedBytes(name, shape) {
      const { rows, rowBytes } = find(name, shape)
      return rows * rowBytes
    },
    packedLayout: (name, shape) => packedLayout(find(name, shape).type),
    close: () => closeSync(file.descriptor),
  }
}
