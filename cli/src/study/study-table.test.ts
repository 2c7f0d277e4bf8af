import type { StudyTable } from '@kvasir/study/study'
import { expect, test } from 'vitest'
import { renderStudyTable } from './study-table.js'

const columns = Array.from({ length: 14 }, (_, index) => ({
  key: `c${index}`,
  label: `Column ${index}`,
  unit: 'ms',
}))
const wide: StudyTable = {
  title: 'Wide',
  columns: [{ key: 'device', label: 'Device' }, ...columns],
  rows: ['a100-80-pcie', 'u280'].map((device) => ({
    device,
    ...Object.fromEntries(columns.map(({ key }, index) => [key, 1_000.5 * index])),
  })),
}

test('numbers stand to the right below their heading and unit, what is missing as a dash', () => {
  const text = renderStudyTable(
    {
      title: 'Throughput',
      columns: [
        { key: 'device', label: 'Device' },
        { key: 'rate', label: 'Rate', unit: 'tokens/s' },
      ],
      rows: [
        { device: 'u280', rate: 1_234.5678 },
        { device: 'cpu', rate: null },
      ],
      note: 'Modelled.',
    },
    100,
  )
  expect(text.split('\n')).toEqual([
    'Throughput',
    '            Rate',
    'Device  tokens/s',
    'u280       1,235',
    'cpu            –',
    'Modelled.',
  ])
})

test.each([60, 80, 100])(
  'no line is longer than %d cells; each part begins with the first column',
  (width) => {
    const lines = renderStudyTable(wide, width).split('\n')
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(width)
    expect(lines.filter((line) => line.startsWith('Device')).length).toBeGreaterThan(1)
    for (const { label } of columns) expect(lines.join('\n')).toContain(label)
  },
)

test('a long text is wrapped and not cut', () => {
  const said = 'a sentence that is longer than any column of a table should ever be on a terminal'
  const text = renderStudyTable(
    { title: '', columns: [{ key: 'said', label: 'Said' }], rows: [{ said }] },
    100,
  )
  expect(text.replaceAll(/\s+/g, ' ')).toContain(said)
  expect(text.split('\n').length).toBeGreaterThan(2)
})

test('a long heading is folded to the width of what is below it', () => {
  const columns = [
    { key: 'a', label: 'replayed, nothing fitted', unit: '×' },
    { key: 'b', label: 'paper' },
  ]
  const text = renderStudyTable({ title: '', columns, rows: [{ a: 1.2, b: 1.3 }] }, 100)
  expect(text.split('\n')).toEqual([
    'replayed,',
    '  nothing',
    '   fitted',
    '        ×  paper',
    '      1.2    1.3',
  ])
})

test('of very many rows it says where the rest is', () => {
  const rows = Array.from({ length: 100 }, (_, n) => ({ n }))
  const text = renderStudyTable({ title: '', columns: [{ key: 'n', label: 'n' }], rows }, 100)
  expect(text.split('\n').at(-1)).toBe('… and 40 more rows in results.json')
})

test('what would move the cursor is shown as what it is not', () => {
  const text = renderStudyTable(
    { title: 't\u001b[2J', columns: [{ key: 'a', label: 'a' }], rows: [{ a: '\u001b[31mred' }] },
    100,
  )
  expect(text).not.toContain('\u001b')
})
