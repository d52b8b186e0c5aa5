//! The rdkafka crate in the client matrix; `tests/clients/python/records.py` describes the orders.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use ropewalk_clients::{Orders, Outcome, Record, Topic, decoded, encoded};

#[tokio::main]
async fn main() -> Outcome {
    let orders = Orders::given()?;
    match std::env::args().nth(1).as_deref() {
        Some("write") => {
            for topic in &orders.topics {
                write(&orders.bootstrap, topic).await?;
            }
            Ok(())
        }
        _ => read(&orders).await,
    }
}

async fn write(bootstrap: &str, topic: &Topic) -> Outcome {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", &topic.compression)
        .set("linger.ms", "20")
        .create()?;
    let mut sent = Vec::new();
    for r in &topic.records {
        let (key, value) = (decoded(r.key.as_ref()), decoded(r.value.as_ref()));
        let mut record: FutureRecord<'_, Vec<u8>, Vec<u8>> =
            FutureRecord::to(&topic.topic).partition(r.partition).timestamp(r.timestamp);
        record.key = key.as_ref();
        record.payload = value.as_ref();
        if !r.headers.is_empty() {
            let headers = r.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
                let value = decoded(value.as_ref());
                headers.insert(Header { key: name, value: value.as_ref() })
            });
            record = record.headers(headers);
        }
        sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    for delivery in sent {
        delivery.await?.map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(30))?;
    Ok(())
}

async fn read(orders: &Orders) -> Outcome {
    let mut left = orders.outstanding();
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &orders.bootstrap)
        .set("group.id", &orders.group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    let topics = left.topics();
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    while !left.is_empty() {
        let m = consumer.recv().await?;
        let headers = m.headers().into_iter().flat_map(|headers| headers.iter());
        left.show(&Record {
            topic: m.topic().to_owned(),
            partition: m.partition(),
            offset: m.offset(),
            timestamp: m.timestamp().to_millis().unwrap_or(-1),
            key: encoded(m.key()),
            value: encoded(m.payload()),
            headers: headers.map(|h| (h.key.to_owned(), encoded(h.value))).collect(),
        })?;
    }
    consumer.commit_consumer_state(CommitMode::Sync)?;
    Ok(())
}
