/** A YAML text whose every value knows its line, lists included: what errors of a cluster file point at. */
import { InvalidInputError } from '@kvasir/runtime/errors'
import { isCollection, isMap, isNode, isScalar, LineCounter, parseDocument } from 'yaml'

export class PlacedYaml {
  readonly #document
  readonly #lines = new LineCounter()

  /** Throws InvalidInputError with file and line where the text is not YAML. */
  constructor(
    text: string,
    readonly file: string,
  ) {
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false })
    const fault = this.#document.errors[0]
    if (!fault) return
    const { line } = this.#lines.linePos(fault.pos[0])
    throw new InvalidInputError(`${file}:${line}: this is not YAML: ${fault.message}; correct the line.`, {
      param: 'cluster',
    })
  }

  get plain(): unknown {
    const plain: unknown = this.#document.toJS()
    return plain
  }

  /** Line of the value at a path, or of the nearest that is there around it. */
  line(path: readonly PropertyKey[]): number {
    let line = 1
    let at: unknown = this.#document.contents
    if (isNode(at) && at.range) line = this.#lines.linePos(at.range[0]).line
    for (const name of path) {
      if (!isCollection(at)) break
      const key = isMap(at) ? at.items.find(({ key }) => isScalar(key) && key.value === name)?.key : undefined
      at = at.get(typeof name === 'symbol' ? name.toString() : name, true)
      const placed = isNode(key) && key.range ? key : at
      if (!isNode(placed) || !placed.range) break
      line = this.#lines.linePos(placed.range[0]).line
    }
    return line
  }

  /** `what` begins with the field it is about. */
  error(path: readonly PropertyKey[], what: string): InvalidInputError {
    return new InvalidInputError(`${this.file}:${this.line(path)}: ${what}`, {
      param: path.map(String).join('.') || 'cluster',
    })
  }
}
