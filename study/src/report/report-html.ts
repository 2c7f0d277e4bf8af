/**
 * report.html of a study: one file that needs nothing else, from no network; a Content-Security-Policy forbids every script
 * but the page's own.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { StudyDocument } from './document.js'
import { html, Markup } from './markup.js'
import { plotFigure } from './plot-figure.js'
import { figuresTable, reportTable } from './report-table.js'

/** The same relative path from src/ and from dist/. */
function asset(name: string): string {
  return readFileSync(fileURLToPath(new URL(`../../assets/${name}`, import.meta.url)), 'utf8')
}

export function reportHtml(document: StudyDocument): string {
  const style = asset('report.css')
  const script = asset('report.js')
  const digest = createHash('sha256').update(script).digest('base64')
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${digest}'`
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="generator" content="kvasir ${document.environment.version}">
<title>${document.title}</title>
<style>${new Markup(style)}</style>
</head>
<body>
<main>
${header(document)}
${findings(document)}
${plots(document)}
${document.tables.map(reportTable)}
${figures(document)}
${provenance(document)}
</main>
<script>${new Markup(script)}</script>
</body>
</html>
`.text
}

function header({ name, title }: StudyDocument): Markup {
  return html`<header>
<p class="kicker">kvasir study ${name}<button type="button" id="scheme" hidden>Dark</button></p>
<h1>${title}</h1>
</header>`
}

function findings({ findings, assumptions, pointsSkipped }: StudyDocument): Markup {
  const skipped =
    pointsSkipped === 0
      ? ''
      : html`<p class="warning">The study was stopped: ${pointsSkipped} ${pointsSkipped === 1 ? 'point is' : 'points are'} missing here.</p>`
  return html`${skipped}
<div class="cards">
<section class="card"><h2>What was found</h2>${list(findings)}</section>
<section class="card modelled"><h2>What is modelled</h2>${list(assumptions)}</section>
</div>`
}

function list(texts: readonly string[]): Markup {
  return html`<ul>${texts.map((text) => html`<li>${text}</li>`)}</ul>`
}

function plots({ plots }: StudyDocument): Markup {
  return html`${plots.map(plotFigure)}`
}

function figures({ figures }: StudyDocument): Markup {
  if (Object.keys(figures).length === 0) return html``
  return html`<section><h2>Figures</h2>${figuresTable(figures)}</section>`
}

function provenance({ command, environment }: StudyDocument): Markup {
  const { version, node, cpu, cores, workers, startedAt, tookS } = environment
  const at = startedAt.replace('T', ' ').replace(/\.\d+Z$/, ' UTC')
  return html`<footer><h2>How it was made</h2>
<pre>${command}</pre>
<p>Kvasir ${version}, Node ${node}; ${at}, ${tookS} s with ${workers} ${workers === 1 ? 'worker' : 'workers'} on ${cpu} (${cores} cores). The same command and version give the same results, but for what is measured on this machine. All numbers are in results.json beside this file.</p></footer>`
}
