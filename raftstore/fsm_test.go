package raftstore

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// machine builds an applier over a ledger and tells what it reported as fatal.
func machine() (*applier, *ledger, func() error) {
	var fatal error
	sm := &ledger{}
	return &applier{sm: sm, wait: newWaiters(), fail: func(err error) {
		if fatal == nil {
			fatal = err
		}
	}}, sm, func() error { return fatal }
}

func logEntry(index uint64, ms int64, commands ...string) *raft.Log {
	e := entry{timeMS: ms}
	for _, c := range commands {
		e.commands = append(e.commands, []byte(c))
	}
	return &raft.Log{Index: index, Term: 2, Type: raft.LogCommand, Data: appendEntry(nil, &e)}
}

func TestApplierKeepsLogTime(t *testing.T) {
	a, sm, _ := machine()
	a.ApplyBatch([]*raft.Log{logEntry(4, 1000, "a"), logEntry(6, 400, "b", "c"), logEntry(7, 1001, "d")})
	want := []ledgerRow{
		{4, time.UnixMilli(1000).UTC(), "a"},
		{6, time.UnixMilli(1000).UTC(), "b"},
		{6, time.UnixMilli(1000).UTC(), "c"},
		{7, time.UnixMilli(1001).UTC(), "d"},
	}
	got := sm.all()
	if len(got) != len(want) {
		t.Fatalf("rows %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d: %v, want %v", i, got[i], want[i])
		}
	}
}

func TestApplierStopsForGood(t *testing.T) {
	refused := errors.New("what is this")
	damaged := logEntry(5, 1, "bad")
	damaged.Data[len(damaged.Data)-1] ^= 1
	for name, c := range map[string]struct {
		entry *raft.Log
		want  error
	}{
		"damaged entry": {damaged, ErrCorrupt},
		"refused":       {logEntry(5, 1, "refuse"), refused},
	} {
		t.Run(name, func(t *testing.T) {
			a, sm, fatal := machine()
			sm.fault = func(_ Meta, c []byte) error {
				if string(c) == "refuse" {
					return refused
				}
				return nil
			}
			a.ApplyBatch([]*raft.Log{logEntry(4, 1, "good"), c.entry, logEntry(6, 1, "after")})
			wantError(t, fatal(), c.want)
			if got := sm.commands(); len(got) != 1 || got[0] != "good" {
				t.Errorf("applied %v", got)
			}
			if a.applied.load() != 4 || a.position().index != 4 {
				t.Errorf("applied up to %d", a.applied.load())
			}
			if _, err := a.Snapshot(); err == nil {
				t.Error("a stopped node took a snapshot")
			}
			if err := a.Restore(io.NopCloser(bytes.NewReader(nil))); err == nil {
				t.Error("a stopped node took a snapshot in")
			}
			var corrupt *CorruptError
			if errors.As(fatal(), &corrupt) && corrupt.Index != 5 {
				t.Errorf("index %d", corrupt.Index)
			}
		})
	}
}

// A node that has failed for whatever reason applies nothing more, and keeps no snapshot of what may be wrong.
func TestApplierStopsWithTheNode(t *testing.T) {
	a, sm, _ := machine()
	a.ApplyBatch([]*raft.Log{logEntry(4, 1, "a")})
	a.failed.Store(true)
	if _, err := a.Snapshot(); err == nil {
		t.Error("a failed node took a snapshot")
	}
	if err := a.Restore(io.NopCloser(bytes.NewReader(seal(t, []byte("[]"))))); err == nil {
		t.Error("a failed node took a snapshot in")
	}
	a.ApplyBatch([]*raft.Log{logEntry(5, 1, "b")})
	if got := sm.commands(); len(got) != 1 {
		t.Errorf("applied %v", got)
	}
}

// A state that was replaced is not judged by what it was before.
func TestARestoredStateHasNoOldCheckpoints(t *testing.T) {
	a, _, fatal := machine()
	a.ApplyBatch([]*raft.Log{logEntry(4, 1, "a"), logEntry(checkpointEvery+1, 1, "b"), logEntry(checkpointEvery+2, 1, "c")})
	if got := a.checkpoints.list(); len(got) != 1 || got[0].Index != checkpointEvery+1 {
		t.Fatalf("checkpoints %v", got)
	}
	check(t, a.Restore(io.NopCloser(bytes.NewReader(seal(t, []byte("[]"))))))
	check(t, fatal())
	if got := a.checkpoints.list(); len(got) != 0 {
		t.Errorf("checkpoints %v", got)
	}
}

type miscounting struct{ ledger }

func (m *miscounting) Apply(Meta, [][]byte) ([]any, error) { return nil, nil }

func TestApplierCountsResults(t *testing.T) {
	a, _, fatal := machine()
	a.sm = &miscounting{}
	a.ApplyBatch([]*raft.Log{logEntry(4, 1, "a")})
	wantError(t, fatal(), ErrStateMachine)
}

func TestApplierRestores(t *testing.T) {
	sealed := seal(t, []byte(`[{"Index":9,"Command":"from the snapshot"}]`))
	a, sm, fatal := machine()
	a.ApplyBatch([]*raft.Log{logEntry(4, 1, "a")})
	check(t, a.Restore(io.NopCloser(bytes.NewReader(sealed))))
	if got := sm.commands(); len(got) != 1 || got[0] != "from the snapshot" || a.pos != samplePos || a.position().index != samplePos.index {
		t.Fatalf("state %v at %+v", got, a.pos)
	}
	a.ApplyBatch([]*raft.Log{logEntry(0x0103, 5, "next")})
	if got := sm.all()[1].Time.UnixMilli(); got != samplePos.timeMS {
		t.Errorf("log time %d after a snapshot of %d", got, samplePos.timeMS)
	}
	check(t, fatal())
}

func TestApplierKeepsItsStateWhenASnapshotIsBad(t *testing.T) {
	sealed := seal(t, []byte(`[{"Index":9,"Command":"from the snapshot"}]`))
	sealed[len(sealed)-1] ^= 1 // everything but the very end is right
	a, sm, fatal := machine()
	a.ApplyBatch([]*raft.Log{logEntry(4, 1, "a")})
	wantError(t, a.Restore(io.NopCloser(bytes.NewReader(sealed))), ErrCorrupt)
	if got := sm.commands(); len(got) != 1 || got[0] != "a" {
		t.Errorf("state %v", got)
	}
	wantError(t, fatal(), ErrCorrupt)
}

type hasty struct{ ledger }

func (h *hasty) Restore(r io.Reader) error {
	_, err := io.ReadFull(r, make([]byte, 3))
	return err
}

func TestApplierDemandsThatSnapshotsAreReadToTheEnd(t *testing.T) {
	a, _, fatal := machine()
	a.sm = &hasty{}
	wantError(t, a.Restore(io.NopCloser(bytes.NewReader(seal(t, []byte("abc"))))), ErrStateMachine)
	wantError(t, fatal(), ErrStateMachine)
}
