package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// logBytes is the file of a log with rows entries of size bytes each.
func logBytes(tb testing.TB, rows, size int) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), logFile)
	log, err := openLog(path)
	check(tb, err)
	var all []*raft.Log
	for i := range rows {
		all = append(all, &raft.Log{Index: uint64(i) + 1, Term: 1, Type: raft.LogCommand, Data: make([]byte, size)})
	}
	check(tb, log.StoreLogs(all))
	check(tb, log.SetUint64([]byte("CurrentTerm"), 1))
	check(tb, log.Close())
	b, err := os.ReadFile(path)
	check(tb, err)
	return b
}

func TestSoundPagesPass(t *testing.T) {
	for name, b := range map[string][]byte{
		"one page":       logBytes(t, 3, 10),
		"branches":       logBytes(t, 5000, 20), // three levels of pages
		"overflow":       logBytes(t, 5, MaxCommand+2000),
		"nothing stored": logBytes(t, 0, 0),
	} {
		if err := checkPages(bytes.NewReader(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of a tree with branches, change what only the neighbourhood shows to be wrong.
func TestMisplacedPagesAreFound(t *testing.T) {
	b := logBytes(t, 5000, 20)
	m, err := newestMeta(bytes.NewReader(b))
	check(t, err)
	ids, keys := 0, 0
	for at := int(2 * m.pageSize); at+int(m.pageSize) <= len(b); at += int(m.pageSize) {
		changed := bytes.Clone(b)
		changed[at] ^= 1 // its own id
		if checkPages(bytes.NewReader(changed)) != nil {
			ids++
		}
		if binary.NativeEndian.Uint16(b[at+8:]) != leafPage || binary.NativeEndian.Uint16(b[at+10:]) < 10 {
			continue
		}
		changed = bytes.Clone(b)
		first := at + pageHeaderLen + int(binary.NativeEndian.Uint32(b[at+pageHeaderLen+4:]))
		binary.BigEndian.PutUint64(changed[first:], 0) // a key under the least that may be here
		if checkPages(bytes.NewReader(changed)) != nil {
			keys++
		}
	}
	if ids < 20 || keys < 20 {
		t.Errorf("found %d wrong ids and %d wrong keys", ids, keys)
	}
}

// A pointer to an ancestor is the worst of damages: whoever follows it never comes back.
func TestPageCyclesAreFound(t *testing.T) {
	b := logBytes(t, 5000, 20)
	m, err := newestMeta(bytes.NewReader(b))
	check(t, err)
	cycles := 0
	for at := int(2 * m.pageSize); at+pageHeaderLen+pageElementLen <= len(b); at += int(m.pageSize) {
		if binary.NativeEndian.Uint16(b[at+8:]) != branchPage {
			continue
		}
		changed := bytes.Clone(b)
		self := binary.NativeEndian.Uint64(b[at:])
		binary.NativeEndian.PutUint64(changed[at+pageHeaderLen+8:], self)
		if err := checkPages(bytes.NewReader(changed)); err == nil {
			continue // a page that is free now
		}
		cycles++
	}
	if cycles == 0 {
		t.Error("no cycle was found")
	}
}

// The walk itself must come to an end, and without a panic, whatever the pages say.
func TestPageWalkSurvivesAnyByte(t *testing.T) {
	b := logBytes(t, 12, 10)
	found := 0
	for at := range b {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			b[at] ^= mask
			if err := checkPages(bytes.NewReader(b)); err != nil {
				wantError(t, err, ErrCorrupt)
				found++
			}
			b[at] ^= mask
		}
	}
	if found < 100 {
		t.Errorf("only %d damages were found", found)
	}
}

func TestTruncatedFilesAreFound(t *testing.T) {
	b := logBytes(t, 500, 100)
	for n := 0; n < len(b)/2; n += 997 {
		wantError(t, checkPages(bytes.NewReader(b[:n])), ErrCorrupt)
	}
}

// What passes, bbolt opens without a fault; what it then reads is for seals to judge.
func FuzzCheckPages(f *testing.F) {
	small := logBytes(f, 12, 10)
	f.Add(0, byte(1))
	f.Add(4096*3+8, byte(4))
	f.Fuzz(func(t *testing.T, at int, mask byte) {
		if at < 0 {
			return
		}
		b := bytes.Clone(small)
		b[at%len(b)] ^= mask
		path := filepath.Join(t.TempDir(), logFile)
		check(t, os.WriteFile(path, b, 0o600))
		log, err := openLog(path)
		if err != nil {
			return // bbolt has reasons of its own
		}
		_ = log.scan(0) // must return
		check(t, log.Close())
	})
}

func TestRaftLogsThroughSlog(t *testing.T) {
	var out bytes.Buffer
	l := newRaftLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l.With("peer", "core-2").Named("net").Named("out").Warn("slow", "sent", hclog.Fmt("%d / %d", 3, 7))
	l.Trace("too fine")
	for _, want := range []string{"level=WARN", "msg=slow", "part=raft", "peer=core-2", `sent="3 / 7"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out.String(), want)
		}
	}
	if strings.Contains(out.String(), "too fine") || l.IsTrace() || !l.IsDebug() || l.GetLevel() != hclog.Debug {
		t.Errorf("levels: %v, %q", l.GetLevel(), out.String())
	}
	if got := l.Named("net").Named("out").Name(); got != "net.out" {
		t.Error(got)
	}
	l.StandardLogger(nil).Print("plain")
	if !strings.Contains(out.String(), "msg=plain") || !l.slog.Enabled(context.Background(), slog.LevelDebug) {
		t.Error(out.String())
	}
}
