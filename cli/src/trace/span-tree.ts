/**
 * A trace as a tree.
 *
 * A span whose parent is not in the trace is a root: so is the request of a client that has a
 * trace of its own, and so is a span whose parent was lost. Siblings are in order of start.
 */
import type { TraceView } from '@kvasir/coordinator/trace-store/trace-store'

export type TraceSpan = TraceView['spans'][number]

export interface SpanNode {
  readonly span: TraceSpan
  /** Microseconds since the trace's earliest span began. */
  readonly startUs: number
  readonly durationUs: number
  readonly children: readonly SpanNode[]
}

export interface SpanTree {
  readonly roots: readonly SpanNode[]
  /** From the earliest start to the latest end. */
  readonly durationUs: number
}

export function buildSpanTree(spans: readonly TraceSpan[]): SpanTree {
  let origin = BigInt(spans[0]?.startUnixNano ?? 0)
  for (const span of spans) {
    const start = BigInt(span.startUnixNano)
    if (start < origin) origin = start
  }
  const known = new Set(spans.map((span) => span.spanId))
  const byParent = new Map<string, TraceSpan[]>()
  for (const span of spans) {
    const parent = span.parentSpanId !== null && known.has(span.parentSpanId) ? span.parentSpanId : ''
    const siblings = byParent.get(parent)
    if (siblings === undefined) byParent.set(parent, [span])
    else siblings.push(span)
  }

  // Each span is the child of one parent, so a span is visited at most once; spans in a cycle
  // of parents, which only a broken sender makes, hang on no root and are left out.
  const nodesUnder = (parent: string): SpanNode[] =>
    (byParent.get(parent) ?? [])
      .map((span) => {
        const start = BigInt(span.startUnixNano)
        return {
          span,
          startUs: Number(start - origin) / 1000,
          durationUs: Number(BigInt(span.endUnixNano) - start) / 1000,
          children: nodesUnder(span.spanId),
        }
      })
      .sort((a, b) => a.startUs - b.startUs || compareText(a.span.name, b.span.name))

  const ends = spans.map((span) => Number(BigInt(span.endUnixNano) - origin) / 1000)
  return { roots: nodesUnder(''), durationUs: Math.max(0, ...ends) }
}

/** Depth first, parents before children. */
export function* walkTree(
  nodes: readonly SpanNode[],
  depth = 0,
): Generator<{ node: SpanNode; depth: number }> {
  for (const node of nodes) {
    yield { node, depth }
    yield* walkTree(node.children, depth + 1)
  }
}

/** Where a span ran: the device of an agent, else the service. */
export function placeOf(span: TraceSpan): string {
  return span.service === 'coordinator' || span.instance === '' ? span.service : span.instance
}

/** An attribute's value where it is a number. */
export function numberAttribute(span: TraceSpan, name: string): number | undefined {
  const value = span.attributes[name]
  return typeof value === 'number' ? value : undefined
}

/** An attribute's numbers where it is an array of them, else none. */
export function numbersAttribute(span: TraceSpan, name: string): readonly number[] {
  const value = span.attributes[name]
  if (typeof value !== 'object') return []
  const items: readonly unknown[] = value
  return items.filter((item) => typeof item === 'number')
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
