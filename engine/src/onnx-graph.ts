/**
 * A small builder of ONNX models: nodes, inputs, outputs, constants.
 *
 * Not the job of this file: what the graphs compute (dense-graphs.ts, attention-graph.ts).
 */
import onnxProto, { type onnx as types } from 'onnx-proto'

const { onnx } = onnxProto

const FLOAT = onnx.TensorProto.DataType.FLOAT
const INT32 = onnx.TensorProto.DataType.INT32
const INT64 = onnx.TensorProto.DataType.INT64
const { INT8, UINT8 } = onnx.TensorProto.DataType
const ELEMENT_TYPES = { float32: FLOAT, int32: INT32, int64: INT64, int8: INT8, uint8: UINT8 } as const

const IR_VERSION = 10
const OPERATOR_SET = 20
const MICROSOFT = 'com.microsoft'
/** Operators of ONNX Runtime's own domain that the graphs use. */
const MICROSOFT_OPERATORS = new Set([
  'FusedMatMul',
  'MatMulNBits',
  'QuickGelu',
  'RotaryEmbedding',
  'SkipSimplifiedLayerNormalization',
])

/** The path under which weights are handed to ONNX Runtime beside the model's bytes. */
export const WEIGHTS_PATH = 'weights'

export type Attribute = number | readonly number[] | { readonly float: number }

export class GraphBuilder {
  readonly #nodes: types.INodeProto[] = []
  readonly #inputs: types.IValueInfoProto[] = []
  readonly #outputs: types.IValueInfoProto[] = []
  readonly #constants: types.ITensorProto[] = []

  /** A dimension is a fixed size, or a name for one that varies. */
  input(name: string, type: keyof typeof ELEMENT_TYPES, dimensions: readonly (number | string)[]): string {
    this.#inputs.push(valueInfo(name, type, dimensions))
    return name
  }

  /** Makes a node's result, always f32, an output of the model. */
  output(name: string, dimensions: readonly (number | string)[]): void {
    this.#outputs.push(valueInfo(name, 'float32', dimensions))
  }

  /** Adds a node; its outputs are named by the caller ('' for one that is not wanted). */
  node(
    operator: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
  ): void {
    this.#nodes.push({
      opType: operator,
      domain: MICROSOFT_OPERATORS.has(operator) ? MICROSOFT : '',
      input: [...inputs],
      output: [...outputs],
      attribute: Object.entries(attributes).map(([name, value]) => attributeOf(name, value)),
    })
  }

  /** A small constant, inside the model's bytes. */
  floats(name: string, values: Float32Array): string {
    const rawData = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    this.#constants.push({ name, dataType: FLOAT, dims: [values.length], rawData })
    return name
  }

  integers(name: string, values: readonly number[]): string {
    const rawData = new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
    this.#constants.push({ name, dataType: INT64, dims: [values.length], rawData })
    return name
  }

  /** A large constant that lies at `offsetBytes` of the weights handed over beside the model. */
  weights(name: string, type: 'float32' | 'uint8', shape: readonly number[], offsetBytes: number): string {
    const bytes = shape.reduce((product, size) => product * size, type === 'uint8' ? 1 : 4)
    this.#constants.push({
      name,
      dataType: ELEMENT_TYPES[type],
      dims: [...shape],
      dataLocation: onnx.TensorProto.DataLocation.EXTERNAL,
      externalData: [
        { key: 'location', value: WEIGHTS_PATH },
        { key: 'offset', value: String(offsetBytes) },
        { key: 'length', value: String(bytes) },
      ],
    })
    return name
  }

  /** The model as bytes. */
  build(name: string): Uint8Array {
    const model = onnx.ModelProto.create({
      irVersion: IR_VERSION,
      opsetImport: [
        { domain: '', version: OPERATOR_SET },
        { domain: MICROSOFT, version: 1 },
      ],
      graph: {
        name,
        node: this.#nodes,
        input: this.#inputs,
        output: this.#outputs,
        initializer: this.#constants,
      },
    })
    return onnx.ModelProto.encode(model).finish()
  }
}

function attributeOf(name: string, value: Attribute): types.IAttributeProto {
  const { AttributeType } = onnx.AttributeProto
  if (typeof value === 'number') return { name, type: AttributeType.INT, i: value }
  if ('float' in value) return { name, type: AttributeType.FLOAT, f: value.float }
  return { name, type: AttributeType.INTS, ints: [...value] }
}

function valueInfo(
  name: string,
  type: keyof typeof ELEMENT_TYPES,
  dimensions: readonly (number | string)[],
): types.IValueInfoProto {
  const dim = dimensions.map((size) => (typeof size === 'string' ? { dimParam: size } : { dimValue: size }))
  return { name, type: { tensorType: { elemType: ELEMENT_TYPES[type], shape: { dim } } } }
}
