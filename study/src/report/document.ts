/**
 * The one document of a study: what `--json` prints, results.json keeps and report.html shows. But for `environment`, and
 * figures that are times of this machine, the same seed and inputs give the same bytes.
 */
import type { Cell, Figures, StudyPlot, StudyResult, StudyTable } from '../study.js'

/** What may differ from run to run. */
export interface StudyEnvironment {
  readonly node: string
  readonly version: string
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  /** Threads that computed points. */
  readonly workers: number
  /** ISO 8601, UTC. */
  readonly startedAt: string
  readonly tookS: number
}

export interface StudyDocument {
  readonly name: string
  readonly title: string
  /** The command line that makes it again, of this version. */
  readonly command: string
  readonly findings: readonly string[]
  readonly figures: Figures
  readonly rows: readonly Readonly<Record<string, Cell>>[]
  readonly tables: readonly StudyTable[]
  readonly plots: readonly StudyPlot[]
  readonly assumptions: readonly string[]
  readonly pointsSkipped: number
  readonly environment: StudyEnvironment
}

export interface Provenance {
  readonly name: string
  readonly command: string
  readonly environment: StudyEnvironment
}

/** @param pointsSkipped as the pool counted them, where the study itself did not */
export function studyDocument(
  result: StudyResult,
  { name, command, environment }: Provenance,
  pointsSkipped = result.pointsSkipped,
): StudyDocument {
  return {
    name,
    title: result.title,
    command,
    findings: result.findings,
    figures: finiteFigures(result.figures),
    rows: result.rows.map(jsonRow),
    tables: result.tables.map((table) => ({ ...table, rows: table.rows.map(jsonRow) })),
    plots: result.plots,
    assumptions: result.assumptions,
    pointsSkipped: Math.max(result.pointsSkipped, pointsSkipped),
    environment,
  }
}

/** A figure that could not be computed is absent: a number is a number. */
function finiteFigures(figures: Figures): Figures {
  const finite: Record<string, number | Readonly<Record<string, number>>> = {}
  for (const [name, value] of Object.entries(figures)) {
    if (typeof value !== 'number') {
      finite[name] = Object.fromEntries(Object.entries(value).filter(([, each]) => Number.isFinite(each)))
    } else if (Number.isFinite(value)) finite[name] = value
  }
  return finite
}

/** JSON has no NaN and no infinity. */
function jsonRow(row: Readonly<Record<string, Cell>>): Record<string, Cell> {
  return Object.fromEntries(
    Object.entries(row).map(([key, cell]) => [
      key,
      typeof cell === 'number' && !Number.isFinite(cell) ? null : cell,
    ]),
  )
}
