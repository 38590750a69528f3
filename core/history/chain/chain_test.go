package chain

import (
	"bytes"
	"encoding/hex"
	"math"
	"testing"
)

type record struct {
	index  uint64
	n      uint32
	ms     int64
	kind   uint8
	stream [17]byte
	data   []byte
}

func (r *record) next(prev [32]byte) [32]byte {
	return Next(prev, r.index, r.n, r.ms, r.kind, r.stream, r.data)
}

func sample() record {
	r := record{index: 0x0102030405060708, n: 0x090a0b0c, ms: 0x18bcfe56800, kind: 0x0d, data: []byte("data")}
	for i := range r.stream {
		r.stream[i] = byte(0xe1 + i)
	}
	return r
}

// The heads were computed by another program from the table in the package comment. They must never change.
func TestGolden(t *testing.T) {
	a, b := sample(), record{index: math.MaxUint64, n: math.MaxUint32, ms: math.MinInt64, kind: 255, data: bytes.Repeat([]byte{0xff}, 1000)}
	var head [32]byte
	for i, want := range []string{goldenFirst, goldenSecond, goldenThird} {
		head = []record{a, b, {index: 1, ms: -1}}[i].next(head)
		if got := hex.EncodeToString(head[:]); got != want {
			t.Errorf("head %d is %s, want %s", i, got, want)
		}
	}
}

func TestEveryFieldCounts(t *testing.T) {
	seen := make(map[[32]byte]string)
	add := func(name string, head [32]byte) {
		if other, ok := seen[head]; ok {
			t.Errorf("%s has the head of %s", name, other)
		}
		seen[head] = name
	}
	r := sample()
	add("the sample", r.next([32]byte{}))
	for i := range 32 {
		var prev [32]byte
		prev[i] = 1
		add("another head before it", r.next(prev))
	}
	for name, change := range map[string]func(*record){
		"index":        func(r *record) { r.index++ },
		"n":            func(r *record) { r.n++ },
		"time":         func(r *record) { r.ms++ },
		"kind":         func(r *record) { r.kind++ },
		"stream":       func(r *record) { r.stream[0]++ },
		"end of it":    func(r *record) { r.stream[16]++ },
		"data":         func(r *record) { r.data = []byte("date") },
		"shorter data": func(r *record) { r.data = r.data[:3] },
		"longer data":  func(r *record) { r.data = append(r.data, 0) },
		"no data":      func(r *record) { r.data = nil },
	} {
		r := sample()
		change(&r)
		add(name, r.next([32]byte{}))
	}
}

const (
	goldenFirst  = "8aadb3b7ddf5b61a061c19ad0952dc7ce9bb87bc120cc210d3500f4ca37c98f3"
	goldenSecond = "265f0b600ce0c113edd60add20ebbe57456988be6a41c4d2bad2d1a827ecfc5f"
	goldenThird  = "7989dc9e33421972885b3e9f568955b999f62b6482d427603c1ea74cf8e37c8d"
)
