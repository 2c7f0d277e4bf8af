import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: { conditions: ['kvasir-source'] },
  ssr: { resolve: { conditions: ['kvasir-source'] } },
  test: {
    include: ['*/src/**/*.test.ts', 'test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 60_000,
  },
})
