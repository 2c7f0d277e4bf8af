import type { Figures } from '../study.js'

/** Each figure by its path, such as `unfitted.v100sOverGpu`. */
export function flatFigures(figures: Figures): readonly { readonly name: string; readonly value: number }[] {
  return Object.entries(figures).flatMap(([name, value]) =>
    typeof value === 'number'
      ? [{ name, value }]
      : Object.entries(value).map(([inner, each]) => ({ name: `${name}.${inner}`, value: each })),
  )
}
