/** What a report does in the page: its scheme, values where one points, tables that sort. */
{
  const root = document.documentElement
  const button = document.getElementById('scheme')
  const isDark = () =>
    root.dataset.scheme ? root.dataset.scheme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  const label = () => {
    button.textContent = isDark() ? 'Light' : 'Dark'
    button.setAttribute('aria-label', `${button.textContent} colours`)
  }
  button.hidden = false
  button.addEventListener('click', () => {
    root.dataset.scheme = isDark() ? 'light' : 'dark'
    label()
  })
  label()

  // Paper is white: what was switched to dark is printed light.
  let before
  addEventListener('beforeprint', () => {
    before = root.dataset.scheme
    root.dataset.scheme = 'light'
  })
  addEventListener('afterprint', () => {
    if (before === undefined) delete root.dataset.scheme
    else root.dataset.scheme = before
  })
}

for (const drawing of document.querySelectorAll('.drawing')) {
  const data = JSON.parse(drawing.querySelector('script').textContent)
  if (data.columns.length === 0) continue
  const cursor = element('div', 'cursor')
  const tip = element('div', 'tip')
  cursor.hidden = tip.hidden = true
  drawing.append(cursor, tip)

  drawing.addEventListener('pointermove', (event) => {
    const box = drawing.getBoundingClientRect()
    const scale = box.width / data.width
    const at = (event.clientX - box.left) / scale
    const column = data.columns.reduce((a, b) => (Math.abs(b.px - at) < Math.abs(a.px - at) ? b : a))
    cursor.hidden = tip.hidden = false
    cursor.style.left = `${column.px * scale}px`
    tip.replaceChildren(title(`${data.x}: ${column.at}`), ...lines(data, column))
    const isRight = column.px > data.width / 2
    tip.style.left = isRight ? 'auto' : `${column.px * scale + 10}px`
    tip.style.right = isRight ? `${box.width - column.px * scale + 10}px` : 'auto'
  })
  drawing.addEventListener('pointerleave', () => {
    cursor.hidden = tip.hidden = true
  })
}

/** More would cover what they are about. */
const linesMax = 16

function lines(data, column) {
  const present = data.series.flatMap((series, index) => {
    const value = column.values[index]
    return value === null ? [] : [{ ...series, value }]
  })
  const shown = present.slice(0, linesMax).map(({ name, colour, value }) => {
    const line = element('span', '')
    if (colour) line.append(swatch(colour))
    line.append(`${name}: ${value}${data.unit ? ` ${data.unit}` : ''}`)
    return line
  })
  if (present.length <= linesMax) return shown
  const more = element('span', '')
  more.textContent = `and ${present.length - linesMax} more`
  return [...shown, more]
}

function swatch(colour) {
  const node = element('i', '')
  node.style.background = colour
  return node
}

function title(text) {
  const node = element('b', '')
  node.textContent = text
  return node
}

function element(tag, className) {
  const node = document.createElement(tag)
  node.className = className
  return node
}

for (const heading of document.querySelectorAll('th')) {
  heading.querySelector('button').addEventListener('click', () => {
    const row = heading.parentElement
    const body = heading.closest('table').tBodies[0]
    const index = [...row.children].indexOf(heading)
    const isUp = heading.getAttribute('aria-sort') !== 'ascending'
    for (const other of row.children) other.removeAttribute('aria-sort')
    heading.setAttribute('aria-sort', isUp ? 'ascending' : 'descending')
    const rows = [...body.rows].sort((a, b) => order(a.cells[index], b.cells[index]))
    body.append(...(isUp ? rows : rows.reverse()))
  })
}

/** Numbers by their value, texts as people read them (2 before 10), and what is missing before both. */
function order(a, b) {
  if (a.dataset.value !== undefined && b.dataset.value !== undefined) return a.dataset.value - b.dataset.value
  return a.textContent.localeCompare(b.textContent, undefined, { numeric: true })
}
