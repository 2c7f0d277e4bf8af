/** What every bench gives: figures by name, the unit last in a name, and the rows they were made from. */
export interface BenchResult {
  readonly figures: Readonly<Record<string, number>>
  readonly rows: readonly Readonly<Record<string, string | number>>[]
}
