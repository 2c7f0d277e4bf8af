/** A study's results on the terminal: what was found, tables that fit, figures, what is modelled. */
import type { StudyDocument } from '@kvasir/study/report/document'
import { flatFigures } from '@kvasir/study/report/flat-figures'
import type { Figures, StudyTable } from '@kvasir/study/study'
import { formatForeign, wrapText } from '../format.js'
import { color, print } from '../terminal.js'
import { renderStudyTable } from './study-table.js'

const widthDefault = 100
const widthMin = 40

/** @param files that were written */
export function showStudy(document: StudyDocument, files: readonly string[]): void {
  print(studyText(document, files, Math.max(widthMin, process.stdout.columns ?? widthDefault)))
}

function studyText(document: StudyDocument, files: readonly string[], width: number): string {
  const parts = [
    color.bold(formatForeign(document.title)),
    bullets(document.findings, width),
    ...document.tables.map((table) => renderStudyTable(table, width)),
    section('Figures', renderStudyTable(figuresTable(document.figures), width)),
    section('Modelled', bullets(document.assumptions, width)),
    files.map((file) => color.dim(file)).join('\n'),
  ]
  return parts.filter((part) => part !== '').join('\n\n')
}

function section(title: string, text: string): string {
  return text === '' ? '' : `${color.bold(title)}\n${text}`
}

function figuresTable(figures: Figures): StudyTable {
  return {
    title: '',
    columns: [
      { key: 'name', label: '' },
      { key: 'value', label: '' },
    ],
    rows: flatFigures(figures).map(({ name, value }) => ({ name, value })),
  }
}

function bullets(texts: readonly string[], width: number): string {
  return texts.map((text) => `• ${wrapText(formatForeign(text), width - 2).join('\n  ')}`).join('\n')
}
