// A member of a group with KafkaJS, until it is killed: prints {"value", "partition"} per message, and
// {"crash", "restarts"} when the consumer stops by itself.
//
//   node group.js BOOTSTRAP TOPIC GROUP
const { Kafka, logLevel } = require('kafkajs')

const [bootstrap, topic, groupId] = process.argv.slice(2)
const print = (line) => console.log(JSON.stringify(line))

async function main() {
  const kafka = new Kafka({ clientId: 'story', brokers: [bootstrap], logLevel: logLevel.ERROR, retry: { initialRetryTime: 100 } })
  const consumer = kafka.consumer({ groupId, sessionTimeout: 30000, maxWaitTimeInMs: 200 })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => print({ joined: payload.memberId }))
  consumer.on(consumer.events.CRASH, ({ payload }) => print({ crash: String(payload.error), restarts: payload.restart }))
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommitThreshold: 1,
    eachMessage: async ({ partition, message }) => print({ value: message.value.toString(), partition }),
  })
}
main()
