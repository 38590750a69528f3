package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// oneNode runs f on a cluster of one that was just founded.
func oneNode(t *testing.T, tune Tuning, f func(w *world, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tune = tune
		w.found("core-1")
		w.start("core-1")
		defer w.stopAll()
		f(w, w.leader("core-1"))
	})
}

// manual is a tuning under which snapshots are taken only when the test asks, and leave two entries in the log.
var manual = Tuning{SnapshotThreshold: 1 << 40, TrailingLogs: 2}

func TestRestartKeepsEverything(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		last := w.propose(n, numbered("c", 50)...)
		want := n.sm.all()
		w.stop("core-1")
		w.start("core-1")
		w.caughtUp(last, "core-1")
		if got := w.nodes["core-1"].sm.all(); !slices.Equal(got, want) {
			t.Fatalf("state %v", got)
		}
	})
}

func TestRestartFromSnapshotAndLog(t *testing.T) {
	oneNode(t, manual, func(w *world, n *node) {
		t := w.t
		w.propose(n, numbered("a", 20)...)
		check(t, n.Snapshot())
		last := w.propose(n, numbered("b", 20)...)
		want := n.sm.all()
		w.stop("core-1")
		w.start("core-1")
		w.caughtUp(last, "core-1")
		n = w.leader("core-1")
		if got := n.sm.all(); !slices.Equal(got, want) {
			t.Fatalf("state %v", got)
		}
		w.propose(n, "and on")
	})
}

// What is acknowledged is on the disk: a copy of the directory, made while the node runs, is what a power cut leaves.
func TestAcknowledgedSurvivesWithoutShutdown(t *testing.T) {
	oneNode(t, manual, func(w *world, n *node) {
		t := w.t
		w.propose(n, numbered("a", 30)...)
		check(t, n.Snapshot())
		last := w.propose(n, numbered("b", 30)...)
		want := n.sm.all()
		copied := filepath.Join(w.base, "copied")
		check(t, os.CopyFS(copied, os.DirFS(w.dir("core-1"))))
		w.propose(n, numbered("later", 5)...)
		w.stop("core-1")

		check(t, os.RemoveAll(w.dir("core-1")))
		check(t, os.Rename(copied, w.dir("core-1")))
		w.start("core-1")
		w.caughtUp(last, "core-1")
		if got := w.nodes["core-1"].sm.all(); !slices.Equal(got, want) {
			t.Fatalf("state %v", got)
		}
	})
}

func TestSnapshotsAreTakenByThemselves(t *testing.T) {
	oneNode(t, Tuning{SnapshotThreshold: 20, SnapshotInterval: time.Second, TrailingLogs: 5}, func(w *world, n *node) {
		t := w.t
		w.propose(n, numbered("a", 50)...)
		<-time.After(3 * time.Second)
		first, err := n.log.FirstIndex()
		check(t, err)
		if first < 20 {
			t.Fatalf("the log still starts at %d", first)
		}
	})
}

func TestBootstrapOnlyOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	cfg := Config{Dir: dir, NodeID: "core-1", Advertise: "core-1:7000"}
	has, err := HasState(dir)
	if has || err != nil {
		t.Fatalf("state before bootstrap: %v, %v", has, err)
	}
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, logFile+".new"), []byte("a bootstrap that was cut short"), 0o600))
	check(t, Bootstrap(cfg))
	has, err = HasState(dir)
	if !has || err != nil {
		t.Fatalf("state after bootstrap: %v, %v", has, err)
	}
	wantError(t, Bootstrap(cfg), ErrBootstrapped)
	wantError(t, Bootstrap(Config{Dir: dir}), ErrConfig)
}

// flip changes one bit of the file at path, in the last place where needle occurs, off bytes behind its start.
func flip(tb testing.TB, path string, needle []byte, off int) {
	tb.Helper()
	b, err := os.ReadFile(path)
	check(tb, err)
	at := bytes.LastIndex(b, needle)
	if at < 0 {
		tb.Fatalf("%q is not in %s", needle, path)
	}
	for ; at >= 0; at = bytes.LastIndex(b[:at], needle) { // bbolt may keep copies on free pages
		b[at+off] ^= 4
	}
	check(tb, os.WriteFile(path, b, 0o600))
}

func (w *world) wantOpenError(id string, target error) error {
	w.t.Helper()
	s, err := Open(w.config(id), &ledger{})
	if err == nil {
		w.t.Error("opened")
		return s.Shutdown(w.t.Context())
	}
	wantError(w.t, err, target)
	return err
}

func TestDamagedLogEntryIsRefused(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		index := w.propose(n, "a", "a rather unusual command")
		w.propose(n, "b")
		w.stop("core-1")
		flip(t, filepath.Join(w.dir("core-1"), logFile), []byte("a rather unusual command"), 3)
		err := w.wantOpenError("core-1", ErrCorrupt)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Index != index {
			t.Fatalf("error %v, want one about entry %d", err, index)
		}
	})
}

// Raft's own fields are guarded too: here the term of an entry.
func TestDamagedTermIsRefused(t *testing.T) {
	dir := t.TempDir()
	log, err := openLog(filepath.Join(dir, logFile))
	check(t, err)
	check(t, log.StoreLog(&raft.Log{Index: 1, Term: 5, Type: raft.LogNoop}))
	var row raft.Log
	check(t, log.GetLog(1, &row))
	row.Term = 6
	check(t, log.bolt.StoreLog(&row)) // past the seal
	wantError(t, log.GetLog(1, &row), ErrCorrupt)
	wantError(t, log.scan(0), ErrCorrupt)
	check(t, log.Close())
}

// What raft would answer with a panic never comes back to it; see sealedLog.
func TestFaultsThatRaftWouldNotSurviveDoNotReachIt(t *testing.T) {
	log, err := openLog(filepath.Join(t.TempDir(), logFile))
	check(t, err)
	check(t, log.bolt.StoreLog(&raft.Log{Index: 1, Term: 1})) // without a seal
	var fatal []error
	halts := 0
	log.fail, log.halted = func(err error) { fatal = append(fatal, err) }, func() { halts++ }

	comesBack := func(f func()) bool {
		back := false
		<-closedAfter(func() { f(); back = true })
		return back
	}
	var row raft.Log
	if comesBack(func() { _ = log.GetLog(1, &row) }) {
		t.Error("a damaged row was handed out")
	}
	if !comesBack(func() { wantError(t, log.GetLog(2, &row), raft.ErrLogNotFound) }) {
		t.Error("a row that is not there is no fault")
	}
	check(t, log.Close())
	if comesBack(func() { _ = log.SetUint64([]byte("CurrentTerm"), 2) }) {
		t.Error("raft was told nothing of a term that is not on the disk")
	}
	if len(fatal) != 2 || !errors.Is(fatal[0], ErrCorrupt) || !errors.Is(fatal[1], ErrStorage) || halts != 2 {
		t.Errorf("errors %v, %d halts", fatal, halts)
	}
}

func TestScanFindsGaps(t *testing.T) {
	log, err := openLog(filepath.Join(t.TempDir(), logFile))
	check(t, err)
	for _, index := range []uint64{3, 4, 8, 9} {
		check(t, log.StoreLog(&raft.Log{Index: index, Term: 1, Type: raft.LogNoop}))
	}
	for snapshot, wantMissing := range map[uint64]uint64{0: 1, 2: 5, 3: 5, 6: 7, 7: 0, 9: 0, 20: 0} {
		err := log.scan(snapshot)
		var corrupt *CorruptError
		switch {
		case wantMissing == 0:
			check(t, err)
		case !errors.As(err, &corrupt) || (corrupt.Index != wantMissing && snapshot != 0):
			t.Errorf("snapshot at %d: %v, want entry %d missing", snapshot, err, wantMissing)
		}
	}
	check(t, log.Close())
}

// Whatever bit of the file flips, the node either starts with the state it had or refuses to start; it never crashes and
// never starts with another one.
func TestAnyDamagedByteOfTheLogFile(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		want := numbered("c", 12)
		last := w.propose(n, want...)
		w.stop("core-1")
		path := filepath.Join(w.dir("core-1"), logFile)
		sound, err := os.ReadFile(path)
		check(t, err)
		refused := 0
		step := len(sound)/150 + 1
		for at := 0; at < len(sound); at += step {
			b := bytes.Clone(sound)
			b[at] ^= 1 << (at % 8)
			check(t, os.WriteFile(path, b, 0o600))
			if !w.opensWith("core-1", want, last) {
				refused++
			}
		}
		if refused == 0 {
			t.Error("no damage was found at all")
		}
	})
}

// opensWith says whether the node starts; if it does, the state must be want.
func (w *world) opensWith(id string, want []string, last uint64) bool {
	w.t.Helper()
	sm := &ledger{}
	s, err := Open(w.config(id), sm)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	if err := s.WaitApplied(ctx, last); err == nil && !slices.Equal(sm.commands(), want) {
		w.t.Errorf("state %v", sm.commands())
	}
	check(w.t, s.Shutdown(ctx))
	return true
}

func snapshotFiles(tb testing.TB, dir, name string) []string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", name))
	check(tb, err)
	slices.Sort(files)
	return files
}

func TestDamagedSnapshotFallsBackOnTheOneBefore(t *testing.T) {
	tune := manual
	tune.TrailingLogs = 1000 // the log reaches back behind both snapshots
	oneNode(t, tune, func(w *world, n *node) {
		t := w.t
		w.propose(n, numbered("a", 20)...)
		check(t, n.Snapshot())
		w.propose(n, numbered("b", 20)...)
		check(t, n.Snapshot())
		last := w.propose(n, "c")
		want := n.sm.all()
		w.stop("core-1")
		files := snapshotFiles(t, w.dir("core-1"), "state.bin")
		if len(files) != 2 {
			t.Fatalf("snapshots %v", files)
		}
		flip(t, files[1], []byte("b-0007"), 2)
		w.start("core-1")
		w.caughtUp(last, "core-1")
		if got := w.nodes["core-1"].sm.all(); !slices.Equal(got, want) {
			t.Fatalf("state %v", got)
		}
	})
}

func TestDamagedSnapshotWithoutLogBehindItIsRefused(t *testing.T) {
	oneNode(t, manual, func(w *world, n *node) {
		t := w.t
		w.propose(n, numbered("a", 20)...)
		check(t, n.Snapshot())
		w.propose(n, numbered("b", 20)...)
		check(t, n.Snapshot())
		w.stop("core-1")
		files := snapshotFiles(t, w.dir("core-1"), "state.bin")
		flip(t, files[1], []byte("b-0007"), 2)
		err := w.wantOpenError("core-1", ErrCorrupt)
		wantError(t, err, raft.ErrLogNotFound)

		flip(t, files[0], []byte("a-0007"), 2)
		err = w.wantOpenError("core-1", ErrCorrupt)
		if errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("both snapshots are damaged, and the error speaks of the log: %v", err)
		}
	})
}

// outdated cannot read snapshots with a "new" command.
type outdated struct{ ledger }

var errOutdated = errors.New("snapshot of a later version")

func (o *outdated) Restore(r io.Reader) error {
	if err := o.ledger.Restore(r); err != nil {
		return err
	}
	if slices.Contains(o.commands(), "new") {
		return errOutdated
	}
	return nil
}

func TestSnapshotThatTheStateMachineRefusesIsNotPassedOver(t *testing.T) {
	tune := manual
	tune.TrailingLogs = 1000
	oneNode(t, tune, func(w *world, n *node) {
		t := w.t
		w.propose(n, "old")
		check(t, n.Snapshot())
		w.propose(n, "new")
		check(t, n.Snapshot())
		w.stop("core-1")
		_, err := Open(w.config("core-1"), &outdated{})
		wantError(t, err, errOutdated)
	})
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		cfg := w.config("core-1")
		_, err := Open(cfg, &ledger{})
		if err == nil {
			t.Fatal("two stores on one directory")
		}
		if _, err := cfg.Listener.Accept(); err == nil {
			t.Error("the listener of a store that did not open is open")
		}
	})
}

// An entry that was written for another index, or as another type, is not taken.
func TestSealCoversWhatRaftReliesOn(t *testing.T) {
	l := &raft.Log{Index: 7, Term: 1, Data: binary.BigEndian.AppendUint64(nil, 1)}
	l.Extensions = sealOf(l)
	check(t, checkSeal(l, 7))
	wantError(t, checkSeal(l, 8), ErrCorrupt)
	l.Type = raft.LogConfiguration
	wantError(t, checkSeal(l, 7), ErrCorrupt)
	l.Type, l.Extensions = raft.LogCommand, nil
	wantError(t, checkSeal(l, 7), ErrCorrupt)
}
