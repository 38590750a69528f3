package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"runtime/debug"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// A row's seal is kept in raft.Log.Extensions: a version byte and a CRC32C over index, term, type and data. The entry's
// own checksum guards the commands on their whole way; the seal guards what raft itself relies on, and it travels with
// the row, so that a follower refuses what was damaged on the leader.
const (
	sealVersion = 1
	sealLen     = 5
)

var errSeal = errors.New("checksum of index, term, type and data does not match")

// sealOf computes a row's seal.
func sealOf(l *raft.Log) []byte {
	var fixed [17]byte
	binary.BigEndian.PutUint64(fixed[:], l.Index)
	binary.BigEndian.PutUint64(fixed[8:], l.Term)
	fixed[16] = byte(l.Type)
	sum := crc32.Update(crc32.Checksum(fixed[:], castagnoli), castagnoli, l.Data)
	return binary.BigEndian.AppendUint32([]byte{sealVersion}, sum)
}

// checkSeal says whether l is the row that was stored at index.
func checkSeal(l *raft.Log, index uint64) error {
	if l.Index != index {
		return &CorruptError{Index: index, Reason: fmt.Errorf("it holds entry %d", l.Index)}
	}
	if len(l.Extensions) != sealLen || string(l.Extensions) != string(sealOf(l)) {
		return &CorruptError{Index: index, Reason: errSeal}
	}
	return nil
}

// sealedLog is the log and the small key-value store of one node on bbolt, with every row checked. Raft answers a failed
// read of a committed entry, and a failed write of its term, with a panic. To end the process in order instead, a fault
// that raft would not survive
//
//  1. is recorded through fail, which closes Store.Done, and
//  2. ends the calling goroutine by runtime.Goexit, which runs raft's deferred clean-up and leaves the rest of the
//     process alive to report the fault and to shut down.
type sealedLog struct {
	bolt *raftboltdb.BoltStore
	// fail records a fatal error. nil while the store is being opened: then errors are returned.
	fail func(error)
	// halted is called when a goroutine of raft's is about to be ended; set together with fail.
	halted func()
}

var (
	_ raft.LogStore    = (*sealedLog)(nil)
	_ raft.StableStore = (*sealedLog)(nil)
)

// guard runs f, which reads pages that bbolt maps into memory, and turns what a damaged page makes of that (a failed
// assertion, an access outside the file) into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the log's pages: %v", ErrCorrupt, r)
		}
	}()
	return f()
}

// halt records err and ends the calling goroutine; while opening it returns err.
func (s *sealedLog) halt(err error) error {
	if s.fail == nil {
		return err
	}
	s.fail(err)
	s.halted()
	runtime.Goexit()
	return nil
}

// FirstIndex implements raft.LogStore.
func (s *sealedLog) FirstIndex() (index uint64, err error) {
	err = guard(func() (err error) { index, err = s.bolt.FirstIndex(); return err })
	return index, err
}

// LastIndex implements raft.LogStore.
func (s *sealedLog) LastIndex() (index uint64, err error) {
	err = guard(func() (err error) { index, err = s.bolt.LastIndex(); return err })
	return index, err
}

// GetLog implements raft.LogStore.
func (s *sealedLog) GetLog(index uint64, l *raft.Log) error {
	err := s.read(index, l)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	return s.halt(err)
}

// read is GetLog without consequences.
func (s *sealedLog) read(index uint64, l *raft.Log) error {
	return guard(func() error {
		err := s.bolt.GetLog(index, l)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			return raft.ErrLogNotFound // unwrapped: raft compares it with ==
		case err != nil:
			return &CorruptError{Index: index, Reason: err}
		default:
			return checkSeal(l, index)
		}
	})
}

// StoreLog implements raft.LogStore.
func (s *sealedLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Rows that this node made get their seal here, before anybody else sees them; rows
// from a leader bring theirs. Raft survives an error of a write, so the goroutine goes on; the node does not.
func (s *sealedLog) StoreLogs(logs []*raft.Log) error {
	for _, l := range logs {
		if l.Extensions == nil {
			l.Extensions = sealOf(l)
		}
		if err := checkSeal(l, l.Index); err != nil {
			return fmt.Errorf("entry from the leader: %w", err)
		}
	}
	return s.written("append to the log", guard(func() error { return s.bolt.StoreLogs(logs) }))
}

// DeleteRange implements raft.LogStore.
func (s *sealedLog) DeleteRange(first, last uint64) error {
	return s.written("shorten the log", guard(func() error { return s.bolt.DeleteRange(first, last) }))
}

// written passes on the outcome of a write and records a fault: after an fsync that did not succeed nobody knows what
// the disk holds, so no later write on the same handle can be trusted.
func (s *sealedLog) written(what string, err error) error {
	if err == nil {
		return nil
	}
	err = storageError(what, err)
	if s.fail != nil {
		s.fail(err)
	}
	return err
}

func storageError(what string, err error) error {
	return fmt.Errorf("%w: %s: %w; check free space and the disk's health, then start the node again", ErrStorage, what, err)
}

// Set implements raft.StableStore.
func (s *sealedLog) Set(key, value []byte) error {
	return s.stable(guard(func() error { return s.bolt.Set(key, value) }))
}

// Get implements raft.StableStore. An absent key is an error that raft knows.
func (s *sealedLog) Get(key []byte) (value []byte, err error) {
	err = guard(func() (err error) { value, err = s.bolt.Get(key); return err })
	return value, err
}

// SetUint64 implements raft.StableStore.
func (s *sealedLog) SetUint64(key []byte, value uint64) error {
	return s.stable(guard(func() error { return s.bolt.SetUint64(key, value) }))
}

// GetUint64 implements raft.StableStore.
func (s *sealedLog) GetUint64(key []byte) (value uint64, err error) {
	err = guard(func() (err error) { value, err = s.bolt.GetUint64(key); return err })
	return value, err
}

// stable passes on the outcome of writing a term or a vote.
func (s *sealedLog) stable(err error) error {
	if err == nil {
		return nil
	}
	return s.halt(storageError("save the term or the vote", err))
}

// scan reads the whole log: every row must be sound, and after the snapshot at index snapshot no row may be missing.
// Raft reads the same rows next, and would panic over a bad one. Rows up to the snapshot may have gaps: a follower that
// was given a snapshot keeps its old rows for a while.
func (s *sealedLog) scan(snapshot uint64) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	var l raft.Log
	for index := first; index != 0 && index <= last; index++ {
		err := s.read(index, &l)
		if errors.Is(err, raft.ErrLogNotFound) && index <= snapshot {
			continue
		}
		if err != nil {
			return scanError(index, err)
		}
	}
	if first > snapshot+1 {
		return scanError(snapshot+1, raft.ErrLogNotFound)
	}
	return nil
}

func scanError(index uint64, err error) error {
	if errors.Is(err, raft.ErrLogNotFound) {
		return &CorruptError{Index: index, Reason: fmt.Errorf("missing between the newest sound snapshot and the log's end: %w", err)}
	}
	return err
}
