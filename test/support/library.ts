/** A small library that was written for tests: short texts of several languages, and queries with the best answer. */

interface LibraryDocument {
  readonly _id: string
  readonly title?: string
  readonly text: string
}

const written: readonly LibraryDocument[] = [
  {
    _id: 'bees',
    title: 'Bees',
    text: 'Bees carry pollen from flower to flower and make honey of the nectar.',
  },
  {
    _id: 'lighthouse',
    title: 'The lighthouse',
    text: 'The old lighthouse warned ships of the rocks until the lamp broke.',
  },
  {
    _id: 'bread',
    title: 'Bread',
    text: 'Flour, water, salt and time: a dough that rests over night needs little yeast.',
  },
  {
    _id: 'mountain',
    title: 'The pass',
    text: 'Snow closes the mountain pass from November to May, and the village waits.',
  },
  { _id: 'garden', text: 'In the garden the beans climb, the snails eat, and the bees come in the morning.' },
  {
    _id: 'clock',
    title: 'A clock',
    text: 'The clock in the tower is three minutes late, and nobody in the town minds.',
  },
  {
    _id: 'river',
    title: 'The river',
    text: 'The river rose over the meadow; the mill stood in the water up to its door.',
  },
  {
    _id: 'müller',
    title: 'Der Müller',
    text: 'Der Müller mahlt das Korn, und das Mühlrad dreht sich im Bach.',
  },
  {
    _id: 'été',
    title: 'Un été',
    text: 'Un été à la mer : le sable, le vent, et les bateaux qui rentrent le soir.',
  },
  { _id: 'tokyo', title: '東京', text: '東京 の 朝 は 早い 。 市場 で は 魚 が 並ぶ 。' },
  { _id: 'sea', title: 'הים', text: 'הים שקט בבוקר והדייגים יוצאים לדרך' },
  { _id: 'desert', title: 'الصحراء', text: 'في الصحراء تسير القافلة ليلا وتستريح نهارا' },
  { _id: 'winter', title: 'Зима', text: 'Зимой река замерзает, и дети катаются на льду.' },
  { _id: 'empty', text: '' },
  { _id: 'symbols', title: '🙂🙃', text: '— … ¿? \u0000 \u2028' },
  {
    _id: 'baker',
    title: 'The baker',
    text: 'The baker rises at two, and at six the bread is in the window.',
  },
]

/** Texts from a few words, so that scores are close and often equal. */
function made(count: number): LibraryDocument[] {
  const words = ['stone', 'wind', 'salt', 'the', 'and', 'of', 'lamp', 'road', 'honey', 'snow', 'to', 'a']
  return Array.from({ length: count }, (_, i) => ({
    _id: `made-${i}`,
    text: Array.from(
      { length: 5 + ((i * 7) % 40) },
      (_w, j) => words[(i * j + (j >> 1)) % words.length],
    ).join(' '),
  }))
}

export const libraryDocuments: readonly LibraryDocument[] = [...written, ...made(300)]

export const libraryQueries: readonly { readonly text: string; readonly best: string }[] = [
  { text: 'How do bees make honey?', best: 'bees' },
  { text: 'the OLD Lighthouse', best: 'lighthouse' },
  { text: 'when is the mountain pass closed by snow', best: 'mountain' },
  { text: 'mu\u0308hlrad', best: 'müller' },
  { text: '東京 の 魚', best: 'tokyo' },
  { text: 'קט הים בבוקר', best: 'sea' },
  { text: 'القافلة', best: 'desert' },
  { text: 'ЛЬДУ зимой', best: 'winter' },
]
