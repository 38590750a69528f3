package raftstore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"
)

func sampleEntries() map[string]entry {
	many := make([][]byte, maxEntryCommands)
	for i := range many {
		many[i] = fmt.Appendf(nil, "command %d", i)
	}
	return map[string]entry{
		"one command":     {timeMS: 1_700_000_000_123, run: math.MaxUint64, number: 7, commands: [][]byte{[]byte("hello")}},
		"empty command":   {timeMS: 0, commands: [][]byte{{}}},
		"three":           {timeMS: maxLogTime, commands: [][]byte{[]byte("a"), {}, []byte("ccc")}},
		"most commands":   {timeMS: 1, commands: many},
		"largest command": {timeMS: 2, commands: [][]byte{bytes.Repeat([]byte{7}, MaxCommand)}},
	}
}

func TestEntryRoundTrip(t *testing.T) {
	for name, e := range sampleEntries() {
		t.Run(name, func(t *testing.T) {
			b := appendEntry([]byte("prefix"), &e)
			if got := len(b) - len("prefix"); got != e.encodedLen() {
				t.Fatalf("%d bytes, announced %d", got, e.encodedLen())
			}
			got, err := decodeEntry(b[len("prefix"):])
			check(t, err)
			if !reflect.DeepEqual(got, e) {
				t.Fatal("decoded entry differs")
			}
		})
	}
}

// The bytes of docs/raft-log.md: a change here is a change of every log that exists.
func TestEntryGolden(t *testing.T) {
	e := entry{timeMS: 1_700_000_000_123, run: 0x1122334455667788, number: 3, commands: [][]byte{[]byte("hi"), {}}}
	const want = "a1" + "72a34065" + "0000018bcfe5687b" + "1122334455667788" + "0000000000000003" + "0002" + "00000002" + "6869" + "00000000"
	if got := hex.EncodeToString(appendEntry(nil, &e)); got != want {
		t.Fatalf("\n%s, want\n%s", got, want)
	}
}

func TestEntryTruncatedAnywhere(t *testing.T) {
	e := sampleEntries()["three"]
	b := appendEntry(nil, &e)
	for n := range b {
		if _, err := decodeEntry(b[:n:n]); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, len(b))
		}
	}
	if _, err := decodeEntry(append(b, 0)); err == nil {
		t.Error("a byte too many was accepted")
	}
}

func TestEntryBitFlips(t *testing.T) {
	e := sampleEntries()["three"]
	b := appendEntry(nil, &e)
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := decodeEntry(b); err == nil {
			t.Errorf("bit %d flipped and accepted", i)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

// Limits hold even where the checksum is right.
func TestEntryLimits(t *testing.T) {
	reseal := func(b []byte) []byte {
		sum := entryChecksum(b)
		b[1], b[2], b[3], b[4] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		return b
	}
	base := func() []byte { return appendEntry(nil, &entry{timeMS: 5, commands: [][]byte{[]byte("abc")}}) }
	cases := map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"other version":     {func(b []byte) []byte { b[0] = 0xA2; return b }, errEntryFormat},
		"no command":        {func(b []byte) []byte { b[30] = 0; return b[:entryHeaderLen] }, errEntryLimit},
		"too many commands": {func(b []byte) []byte { b[29], b[30] = 1, 1; return b }, errEntryLimit},
		"time after 9999":   {func(b []byte) []byte { b[5] = 0x7f; return b }, errEntryLimit},
		"missing command":   {func(b []byte) []byte { b[30] = 2; return b }, errEntryLength},
		"length beyond end": {func(b []byte) []byte { b[34] = 4; return b }, errEntryLength},
		"length over limit": {func(b []byte) []byte { b[31] = 0xff; return b }, errEntryLimit},
		"bytes left over":   {func(b []byte) []byte { b[34] = 2; return b }, errEntryLength},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := decodeEntry(reseal(c.change(base())))
			wantError(t, err, c.want)
		})
	}
}

func TestClampTime(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		want int64
	}{
		{time.Time{}, 0},
		{time.UnixMilli(-1), 0},
		{time.UnixMilli(7), 7},
		{time.Unix(0, 7_999_999), 7},
		{time.Unix(math.MaxInt32*1000, 0), maxLogTime},
	} {
		if got := clampTime(c.at); got != c.want {
			t.Errorf("%v: %d, want %d", c.at, got, c.want)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for name, e := range sampleEntries() {
		if name != "largest command" {
			f.Add(appendEntry(nil, &e))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		if again := appendEntry(nil, &e); !bytes.Equal(again, b) {
			t.Fatalf("decoded %x, encoded %x", b, again)
		}
	})
}

// FuzzSplitCommands goes behind the checksum, which a fuzzer rarely passes.
func FuzzSplitCommands(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 0, 0, 0}, 2)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, b []byte, count int) {
		count = max(1, min(count, maxEntryCommands))
		commands, err := splitCommands(b, count)
		if err != nil {
			if !errors.Is(err, errEntryLength) && !errors.Is(err, errEntryLimit) {
				t.Fatal(err)
			}
			return
		}
		total := 0
		for _, c := range commands {
			total += entryPrefixLen + len(c)
		}
		if len(commands) != count || total != len(b) {
			t.Fatalf("%d commands of %d bytes from %d bytes", len(commands), total, len(b))
		}
	})
}
