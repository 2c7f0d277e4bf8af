/**
 * What a study is, and what it gives: tables, figures and plots as plain data. Whoever runs it prints, writes and draws
 * them; a study itself reads its inputs and computes.
 */

export type Cell = string | number | null

export interface StudyTable {
  readonly title: string
  readonly columns: readonly { readonly key: string; readonly label: string; readonly unit?: string }[]
  readonly rows: readonly Readonly<Record<string, Cell>>[]
  /** Said below it. */
  readonly note?: string
}

export interface PlotSeries {
  readonly name: string
  /** x may be a category. y null: a gap. */
  readonly points: readonly { readonly x: number | string; readonly y: number | null }[]
  /** A reference such as a published figure, drawn apart from what was simulated. */
  readonly isReference?: boolean
}

export interface StudyPlot {
  readonly title: string
  /** bars: grouped by x; steps: a line that jumps; heat: `series` are the rows. */
  readonly kind: 'line' | 'bars' | 'dots' | 'steps' | 'heat'
  readonly x: { readonly label: string; readonly unit?: string; readonly scale?: 'linear' | 'log' }
  readonly y: { readonly label: string; readonly unit?: string; readonly scale?: 'linear' | 'log' }
  readonly series: readonly PlotSeries[]
  /** Horizontal lines such as an SLO. */
  readonly rules?: readonly { readonly y: number; readonly label: string }[]
  readonly note?: string
}

/** Numbers by name, the unit last in a name; may be one level deep. */
export type Figures = Readonly<Record<string, number | Readonly<Record<string, number>>>>

export interface StudyResult {
  /** One sentence: what was asked. */
  readonly title: string
  /** A few sentences: what was found. */
  readonly findings: readonly string[]
  readonly figures: Figures
  /** What the bench documents call rows: one plain record a point. */
  readonly rows: readonly Readonly<Record<string, Cell>>[]
  readonly tables: readonly StudyTable[]
  readonly plots: readonly StudyPlot[]
  /** What is modelled and from which sources, fitted constants by name: shown in every output. */
  readonly assumptions: readonly string[]
  /** Points that were left out because the study was stopped. */
  readonly pointsSkipped: number
  /**
   * One sentence: what a study that checks something found to be wrong. The results are complete and written all the
   * same, but whoever runs it must not take it for passed.
   */
  readonly failed?: string
}

export interface StudyContext {
  readonly signal: AbortSignal
  /** One line on the terminal, above the progress. */
  say(line: string): void
  /** Progress of work that is no point: 0 to 1. */
  progress(share: number, what: string): void
  /**
   * Computes independent points in worker threads, one a core: `module` (URL of a built file) exports `point(input)`;
   * inputs and results are structured-clonable. In the order of the inputs; undefined for points that a stop left out.
   * Rejects with what a point threw.
   */
  points<Input, Result>(
    module: URL,
    inputs: readonly Input[],
    what: string,
  ): Promise<readonly (Result | undefined)[]>
}

/**
 * What the built file of a point exports as `point`. `tell` says how far it is, from 0 to 1; it may be called often and
 * need not be.
 */
export type Point<Input, Result> = (input: Input, tell: (share: number) => void) => Result | Promise<Result>

/** What every study takes. */
export interface StudyOptions {
  readonly seed: number
  /** Catalogue files of the user. */
  readonly catalogue: readonly string[]
  /** Folder of the results; it exists. */
  readonly out: string
}

/** `options` as the command line gives them. */
export type StudyRun<Options> = (options: Options, context: StudyContext) => Promise<StudyResult>
