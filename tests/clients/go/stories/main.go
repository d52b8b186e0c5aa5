// The Go clients of tests/stories: each order does one thing with kafka-go or sarama and prints JSON lines.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"

	"ropewalk/clients/records"
)

var orders = map[string]func(bootstrap string, arguments []string){
	"kafka-go-create":   createWithKafkaGo,
	"sarama-create":     createWithSarama,
	"kafka-go-order":    writeInOrder,
	"sarama-idempotent": writeIdempotent,
	"sarama-member":     consume,
}

func main() {
	order, known := orders[os.Args[1]]
	if !known {
		fmt.Fprintf(os.Stderr, "no order %q\n", os.Args[1])
		os.Exit(2)
	}
	order(os.Args[2], os.Args[3:])
}

var output sync.Mutex

func show(line map[string]any) {
	output.Lock()
	defer output.Unlock()
	records.Check(json.NewEncoder(os.Stdout).Encode(line))
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	records.Check(err)
	return n
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TOPIC…: the first write of each topic, all at once.
func createWithKafkaGo(bootstrap string, topics []string) {
	writer := &kafka.Writer{
		Addr: kafka.TCP(bootstrap), AllowAutoTopicCreation: true, RequiredAcks: kafka.RequireAll,
		BatchTimeout: 10 * time.Millisecond,
	}
	var all sync.WaitGroup
	for _, topic := range topics {
		all.Go(func() {
			begun := time.Now()
			err := writer.WriteMessages(context.Background(), kafka.Message{Topic: topic, Value: []byte("first")})
			show(map[string]any{"topic": topic, "error": words(err), "ms": time.Since(begun).Milliseconds()})
		})
	}
	all.Wait()
	records.Check(writer.Close())
}

// TOPIC…: the first write of each topic, one after the other.
func createWithSarama(bootstrap string, topics []string) {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	records.Check(err)
	for _, topic := range topics {
		begun := time.Now()
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("first")})
		show(map[string]any{"topic": topic, "error": words(err), "ms": time.Since(begun).Milliseconds()})
	}
	records.Check(producer.Close())
}

// TOPIC COUNT: one record a request, the next only after the answer; a failed one is written again.
func writeInOrder(bootstrap string, arguments []string) {
	writer := &kafka.Writer{
		Addr: kafka.TCP(bootstrap), Topic: arguments[0], RequiredAcks: kafka.RequireAll,
		BatchSize: 1, BatchTimeout: 10 * time.Microsecond, WriteBackoffMax: 200 * time.Millisecond,
	}
	again := 0
	for i := range number(arguments[1]) {
		for {
			err := writer.WriteMessages(context.Background(), kafka.Message{Value: []byte(strconv.Itoa(i))})
			if err == nil {
				break
			}
			again++
			time.Sleep(20 * time.Millisecond)
		}
		if i%500 == 499 {
			show(map[string]any{"acked": i + 1})
		}
	}
	show(map[string]any{"done": true, "again": again})
}

// TOPIC PARTITIONS COUNT: an idempotent producer, which sends again until it knows.
func writeIdempotent(bootstrap string, arguments []string) {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Retry.Max = 1000
	config.Producer.Retry.Backoff = 50 * time.Millisecond
	config.Metadata.Retry.Max = 1000
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Flush.Frequency = 5 * time.Millisecond
	config.Net.MaxOpenRequests = 1
	config.Net.DialTimeout = time.Second
	producer, err := sarama.NewAsyncProducer([]string{bootstrap}, config)
	records.Check(err)
	partitions, count := number(arguments[1]), number(arguments[2])
	go func() {
		for i := range count {
			producer.Input() <- &sarama.ProducerMessage{
				Topic: arguments[0], Partition: int32(i % partitions), Value: sarama.StringEncoder(strconv.Itoa(i)),
			}
			time.Sleep(time.Millisecond)
		}
	}()
	// The producer is closed only after each record has its outcome, because Close drops records that wait for a retry.
	acked := 0
	for range count {
		select {
		case failed := <-producer.Errors():
			show(map[string]any{"error": failed.Err.Error()})
		case <-producer.Successes():
			acked++
		}
	}
	records.Check(producer.Close())
	show(map[string]any{"done": true, "acked": acked})
}

type member struct{ slow time.Duration }

func (member) Setup(session sarama.ConsumerGroupSession) error {
	show(map[string]any{"joined": session.MemberID(), "claims": session.Claims()})
	return nil
}
func (member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		value := string(message.Value)
		show(map[string]any{"value": value, "partition": message.Partition})
		if strings.HasPrefix(value, "slow") {
			time.Sleep(m.slow)
		}
		session.MarkMessage(message, "")
	}
	return nil
}

// TOPIC GROUP SESSION_MS REBALANCE_MS SLOW_MS: a member until it is killed. A value that begins with "slow" takes
// SLOW_MS to process.
func consume(bootstrap string, arguments []string) {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Session.Timeout = time.Duration(number(arguments[2])) * time.Millisecond
	config.Consumer.Group.Heartbeat.Interval = config.Consumer.Group.Session.Timeout / 6
	config.Consumer.Group.Rebalance.Timeout = time.Duration(number(arguments[3])) * time.Millisecond
	group, err := sarama.NewConsumerGroup([]string{bootstrap}, arguments[1], config)
	records.Check(err)
	for {
		slow := time.Duration(number(arguments[4])) * time.Millisecond
		if err := group.Consume(context.Background(), []string{arguments[0]}, member{slow}); err != nil {
			show(map[string]any{"error": err.Error()})
			time.Sleep(100 * time.Millisecond)
		}
	}
}
