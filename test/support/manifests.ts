/**
 * The Kubernetes manifests of deploy/ as the processes that a kubelet would start of them: each pod with its
 * command, its environment and an address of its own.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse, parseAllDocuments } from 'yaml'
import { z } from 'zod'
import { projectRoot } from './cluster.js'

const base = join(projectRoot, 'deploy/kubernetes/base')

const objectSchema = z.looseObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata: z.looseObject({ name: z.string() }),
  spec: z.unknown().optional(),
})
export type Manifest = z.output<typeof objectSchema>

const kustomizationSchema = z.looseObject({
  namespace: z.string(),
  resources: z.array(z.string()),
  configMapGenerator: z.array(z.looseObject({ name: z.string(), literals: z.array(z.string()).optional() })),
})

export function kustomization(): z.output<typeof kustomizationSchema> {
  return kustomizationSchema.parse(parse(readFileSync(join(base, 'kustomization.yaml'), 'utf8')))
}

/** Every object of every file that the kustomization names. */
export function manifests(): Manifest[] {
  return kustomization().resources.flatMap((file) =>
    parseAllDocuments(readFileSync(join(base, file), 'utf8')).map((document) =>
      objectSchema.parse(document.toJSON()),
    ),
  )
}

const variableSchema = z.object({
  name: z.string(),
  value: z.string().optional(),
  valueFrom: z.object({ fieldRef: z.object({ fieldPath: z.string() }) }).optional(),
})
const containerSchema = z.looseObject({
  name: z.string(),
  image: z.string(),
  command: z.array(z.string()),
  envFrom: z.array(z.looseObject({ configMapRef: z.object({ name: z.string() }).optional() })).default([]),
  env: z.array(variableSchema).default([]),
})
const workloadSchema = z.looseObject({
  replicas: z.number().int().default(1),
  template: z.object({ spec: z.looseObject({ containers: z.tuple([containerSchema]) }) }),
})

export interface Pod {
  readonly name: string
  readonly image: string
  readonly command: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly ip: string
}

/** `addressOf`: the address of the so-manieth pod. */
export function pods(addressOf: (index: number) => string): Pod[] {
  const all: Pod[] = []
  for (const { kind, metadata, spec } of manifests()) {
    if (kind !== 'Deployment' && kind !== 'StatefulSet' && kind !== 'DaemonSet') continue
    const { replicas, template } = workloadSchema.parse(spec)
    const [container] = template.spec.containers
    for (let index = 0; index < replicas; index += 1) {
      const ip = addressOf(all.length)
      const name = kind === 'StatefulSet' ? `${metadata.name}-${index}` : `${metadata.name}-x${index}`
      const fields: Record<string, string> = { 'metadata.name': name, 'status.podIP': ip }
      const environment: Record<string, string> = {}
      for (const { configMapRef } of container.envFrom) {
        const map = kustomization().configMapGenerator.find((known) => known.name === configMapRef?.name)
        for (const literal of map?.literals ?? []) {
          const [key = '', ...value] = literal.split('=')
          environment[key] = value.join('=')
        }
      }
      for (const { name: key, value, valueFrom } of container.env) {
        environment[key] = value ?? fields[valueFrom?.fieldRef.fieldPath ?? ''] ?? ''
      }
      all.push({ name, image: container.image, command: container.command, environment, ip })
    }
  }
  return all
}
