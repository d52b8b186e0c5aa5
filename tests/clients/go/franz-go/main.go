// franz-go in the client matrix; the orders are described in tests/clients/python/records.py.
package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"ropewalk/clients/records"
)

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func main() { records.Main(write, read) }

func write(orders records.Orders) {
	for _, topic := range orders.Topics {
		client, err := kgo.NewClient(
			kgo.SeedBrokers(orders.Bootstrap),
			kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerBatchCompression(codecs[topic.Compression]),
			kgo.ProducerLinger(20*time.Millisecond),
		)
		records.Check(err)
		var batch []*kgo.Record
		for _, r := range topic.Records {
			record := &kgo.Record{
				Topic: topic.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value,
				Timestamp: time.UnixMilli(r.Timestamp),
			}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, kgo.RecordHeader{Key: h.Name, Value: h.Value})
			}
			batch = append(batch, record)
		}
		records.Check(client.ProduceSync(context.Background(), batch...).FirstErr())
		client.Close()
	}
}

func read(orders records.Orders, reader *records.Reader) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(orders.Bootstrap),
		kgo.ConsumerGroup(orders.Group),
		kgo.ConsumeTopics(reader.Topics()...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	records.Check(err)
	for !reader.Done() {
		fetches := client.PollFetches(context.Background())
		for _, e := range fetches.Errors() {
			records.Check(e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			record := records.Record{
				Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(),
				Key: r.Key, Value: r.Value,
			}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, records.Header{Name: h.Key, Value: h.Value})
			}
			reader.Show(record)
		})
	}
	records.Check(client.CommitUncommittedOffsets(context.Background()))
	client.Close()
}
