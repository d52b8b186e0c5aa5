// KafkaJS in the client matrix; the orders are described in tests/clients/python/records.py.
const fs = require('fs')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')

CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: async (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})
const TYPES = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }

const decoded = (text) => (text === null ? null : Buffer.from(text, 'base64'))
const encoded = (data) => (data === null || data === undefined ? null : Buffer.from(data).toString('base64'))

// KafkaJS keeps headers in an object: a name that repeats has a list of values, and order between names.
function toObject(headers) {
  const object = {}
  for (const [name, value] of headers) {
    const content = decoded(value)
    object[name] = name in object ? [].concat(object[name], content) : content
  }
  return object
}

function toPairs(object) {
  return Object.entries(object || {}).flatMap(([name, values]) =>
    (Array.isArray(values) ? values : [values]).map((value) => [name, encoded(value)])
  )
}

async function write(kafka, orders) {
  for (const { topic, compression, records } of orders.topics) {
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
    await producer.connect()
    const messages = records.map((r) => ({
      partition: r.partition,
      key: decoded(r.key),
      value: decoded(r.value),
      timestamp: String(r.timestamp),
      headers: toObject(r.headers),
    }))
    await producer.send({ topic, acks: -1, compression: CompressionTypes[TYPES[compression]], messages })
    await producer.disconnect()
  }
}

async function read(kafka, orders) {
  const lines = []
  const left = new Map()
  for (const p of orders.partitions) if (p.count) left.set(`${p.topic} ${p.partition}`, p.count)
  const consumer = kafka.consumer({ groupId: orders.group, maxWaitTimeInMs: 200 })
  await consumer.connect()
  await consumer.subscribe({ topics: [...new Set(orders.partitions.map((p) => p.topic))], fromBeginning: true })
  await new Promise((done, failed) => {
    consumer.on(consumer.events.CRASH, (event) => failed(event.payload.error))
    const eachMessage = async ({ topic, partition, message: m }) => {
      lines.push(
        JSON.stringify({
          topic,
          partition,
          offset: Number(m.offset),
          timestamp: Number(m.timestamp),
          key: encoded(m.key),
          value: encoded(m.value),
          headers: toPairs(m.headers),
        })
      )
      const name = `${topic} ${partition}`
      left.set(name, left.get(name) - 1)
      if (left.get(name) === 0) left.delete(name)
      if (left.size === 0) done()
    }
    consumer.run({ eachMessage }).catch(failed)
  })
  await printed(lines.map((line) => `${line}\n`).join(''))
  await consumer.disconnect()
}

// Waits until the pipe has taken everything: process.exit would cut it off.
const printed = (text) => new Promise((done) => process.stdout.write(text, done))

async function main() {
  await zstd.init()
  const orders = JSON.parse(fs.readFileSync(0))
  const kafka = new Kafka({ brokers: [orders.bootstrap], logLevel: logLevel.ERROR, logCreator })
  await { write, read }[process.argv[2]](kafka, orders)
}

// Standard output holds the records and nothing else.
const logCreator = () => ({ label, log }) => console.error(label, log.message, log.error || '')

process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1'
main().then(
  () => process.exit(0),
  (error) => {
    console.error(error)
    process.exit(1)
  }
)
