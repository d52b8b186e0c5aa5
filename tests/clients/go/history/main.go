// A writer for tests/history: an idempotent producer that prints what it was told, one JSON object a line, until its
// standard input ends. See tests/history/history.py for the fields.
//
//	history BOOTSTRAP TOPIC PARTITIONS NAME RECORDS REST_SECONDS
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"
)

// How long records that are unanswered when the load ends may take.
const lastAnswers = 100 * time.Second

type answer struct {
	Began     int64  `json:"began"`
	Ended     int64  `json:"ended"`
	Partition string `json:"partition"`
	Value     string `json:"value"`
	Outcome   string `json:"outcome"`
	Offset    *int64 `json:"offset,omitempty"`
}

func main() {
	log.SetFlags(0)
	bootstrap, topic, name := os.Args[1], os.Args[2], os.Args[4]
	partitions, err := strconv.Atoi(os.Args[3])
	check(err)
	burst, err := strconv.Atoi(os.Args[5])
	check(err)
	rest, err := strconv.ParseFloat(os.Args[6], 64)
	check(err)
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(2*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
		// A record whose outcome is unknown is sent again, whatever else failed.
		kgo.RecordRetries(1<<31-1), kgo.UnknownTopicRetries(-1),
		kgo.MaxBufferedRecords(2000),
		// By default it asks for leaders only 5 s after it asked last, however often they move meanwhile.
		kgo.MetadataMinAge(200*time.Millisecond),
	)
	check(err)

	var written sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	told := json.NewEncoder(out)
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	for sequence := 0; ; sequence++ {
		select {
		case <-stop:
			finish(client, name)
			written.Lock()
			check(out.Flush())
			return
		default:
		}
		began, value := now(), fmt.Sprintf("%s:%d", name, sequence)
		record := &kgo.Record{Topic: topic, Partition: int32(sequence % partitions), Value: []byte(value)}
		client.Produce(context.Background(), record, func(record *kgo.Record, err error) {
			line := answer{began, now(), fmt.Sprintf("%s/%d", topic, record.Partition), value, "ok", &record.Offset}
			if err != nil {
				log.Printf("%s: %s: %v", name, value, err)
				line.Outcome, line.Offset = "info", nil
			}
			written.Lock()
			defer written.Unlock()
			check(told.Encode(line))
			check(out.Flush())
		})
		if (sequence+1)%burst == 0 {
			time.Sleep(time.Duration(rest * float64(time.Second)))
		}
	}
}

func finish(client *kgo.Client, name string) {
	limit, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	if err := client.Flush(limit); err != nil {
		log.Fatalf("%s: records had no answer %v after the end of the load: %v", name, lastAnswers, err)
	}
	client.Close()
}

// Nanoseconds of the machine's monotonic clock, the same for all its processes.
func now() int64 {
	var at syscall.Timespec
	if _, _, failed := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&at)), 0); failed != 0 {
		log.Fatal(failed)
	}
	return at.Nano()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
