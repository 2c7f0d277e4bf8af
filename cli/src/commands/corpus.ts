/** `kvasir corpus …`: collections of documents that requests can retrieve from. */
import type { CorpusReport, SearchReport } from '@kvasir/coordinator/retrieval/corpus-reports'
import type { Command } from 'commander'
import { answerMsMax, callApi } from '../client/api-client.js'
import { addDocuments, corpusPath, readDocuments, searchCorpus } from '../client/corpora.js'
import { locateCluster } from '../client/locate-cluster.js'
import { EXIT, type ExitCode } from '../exit-codes.js'
import { formatBytes, formatCount, formatDuration, formatForeign } from '../format.js'
import { color, print, printJson, renderTable, say } from '../terminal.js'
import { positiveOption } from './option-values.js'
import { interruptSignal, type Run } from './run-command.js'

const searchKMax = 1_000
/** Of a text that is found, printed. */
const snippetCharacters = 80
const progressMs = 1_000

interface Options {
  readonly json?: boolean
}

export function corpusCommand(program: Command, run: Run): void {
  const corpus = program.command('corpus').description('keep collections of documents to retrieve from')
  corpus
    .command('create <name>')
    .description('make an empty corpus')
    .option('--json', 'print one JSON document')
    .action((name: string, options: Options) => run(() => create(name, options)))
  corpus
    .command('add <name> <file>')
    .description('add documents from a file of JSONL, {"_id", "title", "text"} a line; "-" reads stdin')
    .option('--json', 'print one JSON document')
    .action((name: string, file: string, options: Options) => run(() => add(name, file, options)))
  corpus
    .command('list')
    .description('list the corpora, who keeps them and who holds their postings')
    .option('--json', 'print one JSON document')
    .action((options: Options) => run(() => list(options)))
  corpus
    .command('search <name> <query>')
    .description('find the documents that match a query best (BM25)')
    .option('--k <count>', 'documents', positiveOption(searchKMax), 10)
    .option('--json', 'print one JSON document')
    .action((name: string, query: string, options: Options & { k: number }) =>
      run(() => search(name, query, options)),
    )
  corpus
    .command('delete <name>')
    .description('delete a corpus and its documents')
    .option('--json', 'print one JSON document')
    .action((name: string, options: Options) => run(() => remove(name, options)))
}

async function create(name: string, { json }: Options): Promise<ExitCode> {
  const report = await answerOf<CorpusReport>('/v1/corpora', { method: 'POST', body: { name } })
  if (json) printJson(report)
  else print(`made the corpus ${name} on ${report.owner}`)
  return EXIT.ok
}

async function add(name: string, file: string, { json }: Options): Promise<ExitCode> {
  const interrupted = interruptSignal()
  const source = await readDocuments(file)
  let shownMs = performance.now()
  const onSent = (sentBytes: number) => {
    if (!process.stderr.isTTY || performance.now() - shownMs < progressMs) return
    shownMs = performance.now()
    const of = source.bytes === undefined ? '' : ` of ${formatBytes(source.bytes)}`
    say(`sent ${formatBytes(sentBytes)}${of} …`)
  }
  let allSent = false
  async function* documents() {
    for await (const chunk of source.chunks) {
      interrupted.throwIfAborted()
      yield chunk
    }
    // Ctrl-C ends what is piped in, too: that is no end of the documents.
    interrupted.throwIfAborted()
    allSent = true
  }
  try {
    const report = await addDocuments(locateCluster(), name, documents(), interrupted, onSent)
    if (json) printJson(report)
    else {
      print(
        `added ${formatCount(report.added, 'document')} to ${name}, which has ${report.corpus.documents} now`,
      )
    }
    for (const { line, message } of report.problems) say(`line ${line}: ${formatForeign(message)}`)
    const untold = report.rejected - report.problems.length
    if (untold > 0) say(`and ${formatCount(untold, 'more line')} were not taken`)
    return report.rejected === 0 ? EXIT.ok : EXIT.failure
  } catch (error) {
    if (!interrupted.aborted) throw error
    // What still waits for more of it would keep this process.
    process.stdin.destroy()
    say(
      allSent
        ? 'Interrupted before the answer came: `npx kvasir corpus list` says whether the documents were added.'
        : 'The upload was interrupted: nothing of it was added.',
    )
    return EXIT.interrupted
  }
}

async function list({ json }: Options): Promise<ExitCode> {
  const { data } = await answerOf<{ data: readonly CorpusReport[] }>('/v1/corpora')
  if (json) printJson({ corpora: data })
  else if (data.length === 0) print('There is no corpus here: make one with `npx kvasir corpus create NAME`.')
  else {
    const head = ['corpus', 'documents', 'words', 'text', 'postings', 'kept by', 'searched by']
    print(renderTable(data.map(rowOf), head))
  }
  return EXIT.ok
}

async function search(name: string, query: string, { k, json }: Options & { k: number }): Promise<ExitCode> {
  const report = await searchCorpus(locateCluster(), name, query, k)
  if (json) printJson(report)
  else print(found(report, await isEmpty(report)))
  return EXIT.ok
}

async function remove(name: string, { json }: Options): Promise<ExitCode> {
  const { deleted } = await answerOf<{ deleted: boolean }>(corpusPath(name), { method: 'DELETE' })
  if (json) printJson({ name, deleted })
  else print(`deleted the corpus ${name}`)
  return EXIT.ok
}

async function answerOf<T>(path: string, call: Parameters<typeof callApi>[2] = {}): Promise<T> {
  const signal = AbortSignal.timeout(answerMsMax)
  const response = await callApi(locateCluster(), path, { ...call, signal })
  // Both ends are of one version.
  return (await response.json()) as T
}

function rowOf(corpus: CorpusReport): string[] {
  const searchers = corpus.shards.map(({ device, documents }) => `${device} ${documents}`)
  return [
    corpus.name,
    String(corpus.documents),
    String(corpus.terms),
    formatBytes(corpus.textBytes),
    formatBytes(corpus.postingsBytes),
    corpus.available ? corpus.owner : color.red(`${corpus.owner} (does not answer)`),
    searchers.join(', ') || '–',
  ]
}

/** Whether nothing was found since nothing is there. */
async function isEmpty({ corpus, documents }: SearchReport): Promise<boolean> {
  return documents.length === 0 && (await answerOf<CorpusReport>(corpusPath(corpus))).documents === 0
}

function found({ corpus, documents, tookMs, stages }: SearchReport, empty: boolean): string {
  if (empty)
    return `The corpus ${corpus} is empty: add documents with \`npx kvasir corpus add ${corpus} FILE\`.`
  const searchers = stages.find(({ stage }) => stage === 'relevancy')?.devices ?? []
  const by = searchers.length === 0 ? '' : ` on ${searchers.join(' and ')}`
  const footer = color.dim(`${formatCount(documents.length, 'document')} in ${formatDuration(tookMs)}${by}`)
  if (documents.length === 0) return `No document has a word of the query.\n${footer}`
  const rows = documents.map(({ id, title, text, score }) => [
    score.toFixed(3),
    snippet(id),
    snippet(title || text),
  ])
  return `${renderTable(rows, ['score', 'id', 'document'])}\n${footer}`
}

function snippet(text: string): string {
  const line = [...formatForeign(text).trim()]
  return line.length <= snippetCharacters ? line.join('') : `${line.slice(0, snippetCharacters).join('')}…`
}
