import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { parseHTML } from 'linkedom'
import { describe, expect, test } from 'vitest'
import type { StudyPlot } from '../study.js'
import { sampleDocument } from '../testing/sample-document.js'
import { reportHtml } from './report-html.js'

const axis = { label: 'Devices' }
const line: StudyPlot = {
  title: 'Time by devices',
  kind: 'line',
  x: { label: 'Devices', scale: 'log' },
  y: { label: 'Decision time', unit: 'µs' },
  series: [
    { name: 'median', points: [10, 100, 1_000].map((x) => ({ x, y: x / 5 })) },
    { name: 'published', isReference: true, points: [{ x: 100, y: 25 }] },
  ],
  rules: [{ y: 150, label: 'bound' }],
}

function pageOf(...plots: readonly StudyPlot[]) {
  return parseHTML(reportHtml(sampleDocument({ plots }))).document
}

test('a report names what was found, what is modelled, the command, the seed and the version', () => {
  const text = parseHTML(reportHtml(sampleDocument())).document.body.textContent
  for (const part of [
    'How fast is it?',
    'It is twice as fast.',
    'What is modelled',
    'Times are modelled.',
    'kvasir study sample --seed 1',
    'Kvasir 0.1.0',
    'unfitted.ratio',
  ]) {
    expect(text).toContain(part)
  }
})

test('it needs no other file and no network, and no script but its own may run', () => {
  const text = reportHtml(sampleDocument({ plots: [line] }))
  const { document } = parseHTML(text)
  expect(document.querySelectorAll('link, img, iframe, object, script[src]')).toHaveLength(0)
  expect(text.replaceAll('http://www.w3.org/', '')).not.toMatch(/https?:|@import|url\(/)
  const policy = document.querySelector('meta[http-equiv="Content-Security-Policy"]')?.getAttribute('content')
  const script = [...document.querySelectorAll('script')].find(
    (each) => !each.hasAttribute('type'),
  )?.textContent
  const digest = createHash('sha256').update(String(script)).digest('base64')
  expect(policy).toBe(`default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${digest}'`)
})

describe('what comes from inputs is text', () => {
  const hostile = [
    '<script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '</script><script>alert(1)</script>',
    '<!--<script>',
    '&lt;b&gt;',
    ']]>',
    '</style><style>',
  ]
  const names = fc.oneof(fc.constantFrom(...hostile), fc.string({ unit: 'grapheme', minLength: 1 }))
  const kinds = fc.constantFrom<StudyPlot['kind']>('line', 'bars', 'dots', 'steps', 'heat')

  test('in every place of a document', () => {
    const clean = parseHTML(reportHtml(documentWith('name', 'bars'))).document
    const own = clean.querySelectorAll('script').length
    fc.assert(
      fc.property(names, kinds, (name, kind) => {
        const { document } = parseHTML(reportHtml(documentWith(name, kind)))
        expect(document.querySelectorAll('script')).toHaveLength(own)
        expect(document.querySelectorAll('img, [onerror], [onmouseover], b')).toHaveLength(0)
        for (const data of document.querySelectorAll('script[type]')) JSON.parse(data.textContent ?? '')
      }),
      { numRuns: 60 },
    )
  })

  test('and reads as it was given', () => {
    const { document } = parseHTML(reportHtml(documentWith('a <b> & "c"', 'line')))
    expect(document.querySelector('h1')?.textContent).toBe('a <b> & "c"')
    expect(document.querySelector('.legend')?.textContent).toContain('a <b> & "c"')
  })

  function documentWith(name: string, kind: StudyPlot['kind']) {
    return sampleDocument({
      title: name,
      findings: [name],
      assumptions: [name],
      figures: { [name]: 1 },
      tables: [
        { title: name, columns: [{ key: 'a', label: name, unit: name }], rows: [{ a: name }], note: name },
      ],
      plots: [
        {
          title: name,
          kind,
          x: { label: name, unit: name },
          y: { label: name, unit: name },
          series: [{ name, points: [{ x: name, y: 1 }] }],
          rules: [{ y: 1, label: name }],
          note: name,
        },
      ],
    })
  }
})

describe('plots', () => {
  test('axes are labelled with their units, series and rules named', () => {
    const document = pageOf(line)
    expect([...document.querySelectorAll('.axis')].map((node) => node.textContent)).toEqual([
      '↑ Decision time (µs)',
      'Devices, logarithmic →',
    ])
    const legend = [...document.querySelectorAll('.legend li')].map((node) => node.textContent)
    expect(legend).toEqual(['median', 'published', 'bound (150 µs)'])
  })

  test('a rule far above all values does not flatten them; the key says where it is', () => {
    const document = pageOf({ ...line, rules: [{ y: 5_000, label: 'bound' }] })
    expect(document.querySelector('.legend')?.textContent).toContain('bound (5,000 µs), beyond the axis')
    expect(document.querySelector('.wide')?.innerHTML).not.toContain('bound')
  })

  test('a single series that is what the axis says has no key', () => {
    const { rules: _, ...plain } = line
    const points = [{ x: 1, y: 2 }]
    expect(
      pageOf({ ...plain, series: [{ name: 'decision time', points }] }).querySelector('.legend'),
    ).toBeNull()
    expect(pageOf({ ...plain, series: [{ name: 'median', points }] }).querySelector('.legend')).not.toBeNull()
  })

  test('a reference is drawn apart', () => {
    const paths = [...pageOf(line).querySelectorAll('.wide g[aria-label="line"]')]
    expect(paths.map((node) => node.getAttribute('stroke-dasharray'))).toEqual([null, '5 4'])
  })

  test('a logarithmic axis leaves out what has no logarithm', () => {
    const points = [
      { x: 0, y: 1 },
      { x: 10, y: 0 },
      { x: 100, y: 5 },
    ]
    const text = reportHtml(
      sampleDocument({
        plots: [{ ...line, y: { label: 'y', scale: 'log' }, series: [{ name: 'a', points }] }],
      }),
    )
    expect(text).not.toMatch(/NaN|Infinity/)
  })

  test.each(['line', 'bars', 'dots', 'steps', 'heat'] as const)(
    '%s: nothing, one point, gaps, texts and any numbers can be drawn, and nothing stands at NaN',
    (kind) => {
      const value = fc.oneof(
        fc.double(),
        fc.constantFrom(null, 0, 1e-300, 1e300, Number.NaN, Number.POSITIVE_INFINITY),
        fc.integer(),
      )
      const x = fc.oneof(fc.integer(), fc.double(), fc.constantFrom('a', 'b', 'c'))
      const scale = fc.constantFrom('linear' as const, 'log' as const)
      const plots = fc.record({
        title: fc.constant('a plot'),
        kind: fc.constant(kind),
        x: fc.record({ label: fc.constant('x'), scale }),
        y: fc.record({ label: fc.constant('y'), scale }),
        series: fc.array(
          fc.record({
            name: fc.constant('s'),
            points: fc.array(fc.record({ x, y: value }), { maxLength: 8 }),
            isReference: fc.boolean(),
          }),
          { maxLength: 4 },
        ),
        rules: fc.array(fc.record({ y: fc.integer(), label: fc.constant('rule') }), { maxLength: 2 }),
      })
      fc.assert(
        fc.property(plots, (plot) => {
          expect(reportHtml(sampleDocument({ plots: [plot] }))).not.toMatch(
            /"[^"]*(NaN|Infinity|undefined)[^"]*"/,
          )
        }),
        { numRuns: 60 },
      )
    },
  )

  test.each([
    [
      [0, 5.903, 11.806],
      ['0', '6', '12'],
    ],
    [
      [0.25, 0.5, 1],
      ['0.25', '0.5', '1'],
    ],
    [
      [16, 512],
      ['16', '512'],
    ],
    [[1 / 3], ['0.3333']],
  ])('numbers %j below bars and cells are told apart with few digits', (xs, texts) => {
    const points = xs.map((x) => ({ x, y: 1 }))
    const document = pageOf({ ...line, kind: 'heat', series: [{ name: 'a', points }] })
    const ticks = document.querySelector('.wide g[aria-label="x-axis tick label"]')
    expect([...(ticks?.querySelectorAll('text') ?? [])].map((node) => node.textContent)).toEqual(texts)
  })

  test('a plot without values says so', () => {
    const document = pageOf(
      { ...line, series: [] },
      { title: 'b', kind: 'heat', x: axis, y: axis, series: [] },
    )
    expect(document.querySelectorAll('.plot .empty')).toHaveLength(2)
    expect(document.querySelectorAll('.plot svg')).toHaveLength(0)
  })

  test('a long series is thinned to its lowest and highest values, and that is said', () => {
    const points = Array.from({ length: 50_000 }, (_, at) => ({ x: at, y: at === 31_415 ? 1_000 : at % 7 }))
    const document = pageOf({ ...line, x: axis, series: [{ name: 'a', points }] })
    expect(document.querySelector('.plot .note')?.textContent).toContain('fewer points')
    expect(document.querySelector('.wide')?.innerHTML).toContain('1,000')
    expect(document.body.innerHTML.length).toBeLessThan(400_000)
  })
})

test('a long table is folded, and what is too much for a page is said to be elsewhere', () => {
  const rows = Array.from({ length: 600 }, (_, n) => ({ n }))
  const table = { title: 'All', columns: [{ key: 'n', label: 'n' }], rows }
  const { document } = parseHTML(reportHtml(sampleDocument({ tables: [table] })))
  expect(document.querySelector('summary')?.textContent).toBe('600 rows')
  expect(document.querySelectorAll('tbody tr')).toHaveLength(500)
  expect(document.querySelector('.table .note')?.textContent).toBe('100 more rows are in results.json.')
})

test('a study that was stopped says how much is missing', () => {
  const { document } = parseHTML(reportHtml(sampleDocument({ pointsSkipped: 3 })))
  expect(document.querySelector('.warning')?.textContent).toContain('3 points are missing')
})

describe('colours', () => {
  const css = readFileSync(new URL('../../assets/report.css', import.meta.url), 'utf8')
  const [light = '', dark = '', chosen = ''] = [...css.matchAll(/\{\s*color-scheme[^}]*\}/g)].map(
    ([block]) => block,
  )
  const colourOf = (block: string, name: string): string =>
    new RegExp(`--${name}: (#\\w+)`).exec(block)?.[1] ?? ''
  const values = (block: string): string[] => block.match(/--[\w-]+: #\w+/g) ?? []

  test('the chosen dark scheme is the one of dark systems', () => {
    expect(values(dark).length).toBeGreaterThan(12)
    expect(values(chosen)).toEqual(values(dark))
  })

  test.each([
    ['light', light],
    ['dark', dark],
  ])('%s: lines stand out by 3:1 and texts by 4.5:1', (_, block) => {
    const panel = colourOf(block, 'panel')
    for (let number = 1; number <= 8; number += 1) {
      expect(contrast(colourOf(block, `s${number}`), panel)).toBeGreaterThanOrEqual(3)
    }
    for (const name of ['text', 'muted', 'accent', 'rule']) {
      expect(contrast(colourOf(block, name), panel), name).toBeGreaterThanOrEqual(4.5)
    }
  })

  /** WCAG 2. */
  function contrast(a: string, b: string): number {
    const [dim = 0, bright = 0] = [luminance(a), luminance(b)].sort((x, y) => x - y)
    return (bright + 0.05) / (dim + 0.05)
  }

  function luminance(colour: string): number {
    const channels = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255)
    const [red = 0, green = 0, blue = 0] = channels.map((c) =>
      c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4,
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
  }
})
