/** Tables of the report; a click on a heading sorts. */
import type { Cell, Figures, StudyTable } from '../study.js'
import { flatFigures } from './flat-figures.js'
import { html, type Markup } from './markup.js'
import { numberText } from './number-text.js'

/** More slow a page down, and nobody reads them there. */
const rowsMax = 500
/** Longer tables are opened by whoever wants them. */
const openMax = 40

export function reportTable(table: StudyTable): Markup {
  const shown = table.rows.slice(0, rowsMax)
  const isNumeric = table.columns.map(({ key }) => shown.every((row) => typeof (row[key] ?? 0) === 'number'))
  const heads = table.columns.map(
    ({ label, unit }, index) =>
      html`<th scope="col"${isNumeric[index] ? numberClass : ''}><button type="button">${label}${unit === undefined ? '' : html` <small>${unit}</small>`}</button></th>`,
  )
  const rows = shown.map(
    (row) =>
      html`<tr>${table.columns.map(({ key }, index) => cellMarkup(row[key] ?? null, isNumeric[index] ?? false))}</tr>`,
  )
  const more = table.rows.length - shown.length
  const whole = html`<div class="scroll"><table><thead><tr>${heads}</tr></thead><tbody>${rows}</tbody></table></div>`
  return html`<section class="table"><h3>${table.title}</h3>
${table.rows.length > openMax ? html`<details><summary>${String(table.rows.length)} rows</summary>${whole}</details>` : whole}
${more > 0 ? html`<p class="note">${String(more)} more rows are in results.json.</p>` : ''}
${table.note === undefined ? '' : html`<p class="note">${table.note}</p>`}</section>`
}

/** Texts of at most so many characters stay on one line. */
const shortMax = 24
const shortClass = html` class="short"`
const numberClass = html` class="number"`

function cellMarkup(cell: Cell, isNumber: boolean): Markup {
  if (cell === null) return html`<td${isNumber ? numberClass : ''}>–</td>`
  if (typeof cell === 'string') return html`<td${cell.length <= shortMax ? shortClass : ''}>${cell}</td>`
  return html`<td class="number" data-value="${cell}">${numberText(cell)}</td>`
}

/** Each figure under its name in results.json. */
export function figuresTable(figures: Figures): Markup {
  return html`<dl class="figures">${flatFigures(figures).map(
    ({ name, value }) => html`<div><dt>${name}</dt><dd title="${value}">${numberText(value)}</dd></div>`,
  )}</dl>`
}
