/**
 * BM25, nDCG and recall as a textbook has them, slowly: what search results are held against. It shares no
 * code with what it judges; only the rule for words is the same (lowercase Unicode words, no stemming).
 */
export interface PlainDocument {
  readonly _id: string
  readonly title: string
  readonly text: string
}

const k1 = 1.2
const b = 0.75

function wordsOf(text: string): string[] {
  return (
    text
      .normalize('NFKC')
      .toLowerCase()
      .match(/[\p{L}\p{N}][\p{L}\p{M}\p{N}]*/gu) ?? []
  )
}

/** Ids with their scores, best first; of equal ones the earlier document first. Documents without a word are left out. */
export function textbookSearch(
  documents: readonly PlainDocument[],
  query: string,
  k: number,
): { readonly id: string; readonly score: number }[] {
  const bags = documents.map(({ title, text }) => wordsOf(`${title} ${text}`))
  const meanLength = bags.reduce((sum, bag) => sum + bag.length, 0) / bags.length
  const terms = wordsOf(query).map((word) => {
    const containing = bags.filter((bag) => bag.includes(word)).length
    return { word, idf: Math.log(1 + (documents.length - containing + 0.5) / (containing + 0.5)) }
  })
  const scored = documents.map(({ _id }, number) => {
    const bag = bags[number] ?? []
    let score = 0
    for (const { word, idf } of terms) {
      const frequency = bag.filter((other) => other === word).length
      score += (idf * frequency * (k1 + 1)) / (frequency + k1 * (1 - b + (b * bag.length) / meanLength))
    }
    return { id: _id, number, score }
  })
  return scored
    .filter(({ score }) => score > 0)
    .sort((x, y) => (Math.abs(x.score - y.score) < 1e-9 ? x.number - y.number : y.score - x.score))
    .slice(0, k)
    .map(({ id, score }) => ({ id, score }))
}

/** Means over the judged queries. */
export function textbookFigures(
  documents: readonly PlainDocument[],
  queries: readonly { readonly _id: string; readonly text: string }[],
  grades: Readonly<Record<string, Readonly<Record<string, number>>>>,
): { readonly ndcg10: number; readonly recall100: number } {
  let ndcg = 0
  let recall = 0
  const judged = queries.filter(({ _id }) => grades[_id])
  for (const { _id, text } of judged) {
    const ofQuery = grades[_id] ?? {}
    const ids = textbookSearch(documents, text, 100).map(({ id }) => id)
    const gain = (list: readonly number[]) =>
      list.slice(0, 10).reduce((sum, grade, at) => sum + grade / Math.log2(at + 2), 0)
    const best = Object.values(ofQuery).sort((x, y) => y - x)
    ndcg += gain(ids.map((id) => ofQuery[id] ?? 0)) / gain(best)
    const relevant = Object.keys(ofQuery).filter((id) => (ofQuery[id] ?? 0) > 0)
    recall += ids.filter((id) => relevant.includes(id)).length / relevant.length
  }
  return { ndcg10: ndcg / judged.length, recall100: recall / judged.length }
}

const vocabulary = (
  'wolf fox grape lamb river raven cheese lion mouse frog ox crane stork hare tortoise ant cricket ' +
  'winter summer king log bundle sticks miller donkey son shadow bone ÉTÉ Straße 水 ночь'
).split(' ')

/** Documents whose words are drawn so that some are rare and some everywhere, with ties between documents. */
export function fixtureDocuments(count: number): PlainDocument[] {
  let state = 12_345
  const draw = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const word = () => vocabulary[Math.min(draw(vocabulary.length), draw(vocabulary.length))] ?? ''
  return Array.from({ length: count }, (_, number) => ({
    _id: `doc-${number}`,
    title: number % 5 === 0 ? '' : word(),
    text: Array.from({ length: number % 11 === 0 ? 0 : 3 + draw(40) }, word).join(
      number % 2 === 0 ? ' ' : ', ',
    ),
  }))
}

export function jsonlOf(lines: readonly object[]): string {
  return lines.map((line) => `${JSON.stringify(line)}\n`).join('')
}
