// Package records is the form in which every client of the matrix gets its orders and answers; it is
// described in tests/clients/python/records.py.
package records

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

// Header is a pair of name and value; a nil value is a null.
type Header struct {
	Name  string
	Value []byte
}

func (h *Header) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&h.Name, &h.Value})
}

func (h Header) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{h.Name, h.Value})
}

// Record is one record; a nil key or value is a null.
type Record struct {
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Timestamp int64    `json:"timestamp"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
}

type Topic struct {
	Topic       string   `json:"topic"`
	Compression string   `json:"compression"`
	Records     []Record `json:"records"`
}

type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Count     int    `json:"count"`
}

type Orders struct {
	Bootstrap  string      `json:"bootstrap"`
	Group      string      `json:"group"`
	Topics     []Topic     `json:"topics"`
	Partitions []Partition `json:"partitions"`
}

// Main reads the orders and carries out the one that the first argument names.
func Main(write func(Orders), read func(Orders, *Reader)) {
	var orders Orders
	Check(json.NewDecoder(os.Stdin).Decode(&orders))
	if os.Args[1] == "write" {
		write(orders)
		return
	}
	reader := &Reader{left: map[key]int{}, out: bufio.NewWriter(os.Stdout)}
	for _, p := range orders.Partitions {
		if p.Count > 0 {
			reader.left[key{p.Topic, p.Partition}] = p.Count
		}
	}
	read(orders, reader)
	Check(reader.out.Flush())
}

type key struct {
	topic     string
	partition int32
}

// Reader prints what was read and knows what is still to come.
type Reader struct {
	left map[key]int
	out  *bufio.Writer
}

func (r *Reader) Done() bool { return len(r.left) == 0 }

func (r *Reader) Topics() []string {
	seen, topics := map[string]bool{}, []string{}
	for k := range r.left {
		if !seen[k.topic] {
			seen[k.topic] = true
			topics = append(topics, k.topic)
		}
	}
	return topics
}

func (r *Reader) Show(record Record) {
	if record.Headers == nil {
		record.Headers = []Header{}
	}
	Check(json.NewEncoder(r.out).Encode(record))
	k := key{record.Topic, record.Partition}
	if r.left[k]--; r.left[k] == 0 {
		delete(r.left, k)
	}
}

func Check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
