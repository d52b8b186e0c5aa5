// kafka-go in the client matrix; the orders are described in tests/clients/python/records.py.
package main

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"

	"ropewalk/clients/records"
)

var codecs = map[string]kafka.Compression{
	"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

// toPartition is a balancer that sends a message where WriterData says.
type toPartition struct{}

func (toPartition) Balance(message kafka.Message, _ ...int) int { return message.WriterData.(int) }

func main() { records.Main(write, read) }

func write(orders records.Orders) {
	for _, topic := range orders.Topics {
		writer := &kafka.Writer{
			Addr: kafka.TCP(orders.Bootstrap), Topic: topic.Topic, Balancer: toPartition{},
			RequiredAcks: kafka.RequireAll, Compression: codecs[topic.Compression],
			BatchTimeout: 20 * time.Millisecond,
		}
		var batch []kafka.Message
		for _, r := range topic.Records {
			message := kafka.Message{
				WriterData: int(r.Partition), Key: r.Key, Value: r.Value, Time: time.UnixMilli(r.Timestamp),
			}
			for _, h := range r.Headers {
				message.Headers = append(message.Headers, kafka.Header{Key: h.Name, Value: h.Value})
			}
			batch = append(batch, message)
		}
		records.Check(writer.WriteMessages(context.Background(), batch...))
		records.Check(writer.Close())
	}
}

func read(orders records.Orders, reader *records.Reader) {
	group := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{orders.Bootstrap}, GroupID: orders.Group, GroupTopics: reader.Topics(),
		StartOffset: kafka.FirstOffset, MaxWait: 200 * time.Millisecond, MinBytes: 1, MaxBytes: 10 << 20,
	})
	var last []kafka.Message
	for !reader.Done() {
		m, err := group.FetchMessage(context.Background())
		records.Check(err)
		record := records.Record{
			Topic: m.Topic, Partition: int32(m.Partition), Offset: m.Offset, Timestamp: m.Time.UnixMilli(),
			Key: m.Key, Value: m.Value,
		}
		for _, h := range m.Headers {
			record.Headers = append(record.Headers, records.Header{Name: h.Key, Value: h.Value})
		}
		reader.Show(record)
		last = append(last, m)
	}
	records.Check(group.CommitMessages(context.Background(), last...))
	records.Check(group.Close())
}
