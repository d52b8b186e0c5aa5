// sarama in the client matrix; the orders are described in tests/clients/python/records.py.
package main

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"ropewalk/clients/records"
)

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
	"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func main() { records.Main(write, read) }

func config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	return config
}

func write(orders records.Orders) {
	for _, topic := range orders.Topics {
		config := config()
		config.Producer.RequiredAcks = sarama.WaitForAll
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
		config.Producer.Compression = codecs[topic.Compression]
		config.Producer.Partitioner = sarama.NewManualPartitioner
		config.Producer.Return.Successes = true
		config.Producer.Flush.Frequency = 20 * time.Millisecond
		producer, err := sarama.NewSyncProducer([]string{orders.Bootstrap}, config)
		records.Check(err)
		var batch []*sarama.ProducerMessage
		for _, r := range topic.Records {
			message := &sarama.ProducerMessage{
				Topic: topic.Topic, Partition: r.Partition, Timestamp: time.UnixMilli(r.Timestamp),
			}
			if r.Key != nil {
				message.Key = sarama.ByteEncoder(r.Key)
			}
			if r.Value != nil {
				message.Value = sarama.ByteEncoder(r.Value)
			}
			for _, h := range r.Headers {
				message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(h.Name), Value: h.Value})
			}
			batch = append(batch, message)
		}
		records.Check(producer.SendMessages(batch))
		records.Check(producer.Close())
	}
}

type handler struct {
	sync.Mutex
	reader *records.Reader
	stop   context.CancelFunc
}

func (*handler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, open := <-claim.Messages():
			if !open {
				return nil
			}
			h.show(m)
			session.MarkMessage(m, "")
		case <-session.Context().Done():
			return nil
		}
	}
}

func (h *handler) show(m *sarama.ConsumerMessage) {
	h.Lock()
	defer h.Unlock()
	record := records.Record{
		Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Timestamp: m.Timestamp.UnixMilli(),
		Key: m.Key, Value: m.Value,
	}
	for _, header := range m.Headers {
		record.Headers = append(record.Headers, records.Header{Name: string(header.Key), Value: header.Value})
	}
	h.reader.Show(record)
	if h.reader.Done() {
		h.stop()
	}
}

func read(orders records.Orders, reader *records.Reader) {
	config := config()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	group, err := sarama.NewConsumerGroup([]string{orders.Bootstrap}, orders.Group, config)
	records.Check(err)
	context, stop := context.WithCancel(context.Background())
	handler := &handler{reader: reader, stop: stop}
	topics := reader.Topics()
	for !reader.Done() {
		records.Check(group.Consume(context, topics, handler))
	}
	records.Check(group.Close())
}
