package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// A model is the spool's plain twin: the list of what was acknowledged. It drives a spool on a disk that fails and loses power.
type model struct {
	rand *rand.Rand
	disk *simdisk.Disk
	wrap func(disk.FS) disk.FS // between the spool and its disk
	s    *Spool
	conf Config

	recs    []Record // what is durable: acknowledged, or found after a crash; the record with number n at n-1
	waiting []Record // appended, and not answered yet; without numbers
	maybe   []Record // what failed or was under way at a crash: it may turn up behind recs, in this order
	trim    uint64
	made    int
	counts  map[string]int
}

func newModel(seed uint64, wrap func(disk.FS) disk.FS) *model {
	m := &model{rand: newRand(seed), disk: newDisk(seed), wrap: wrap, counts: make(map[string]int)}
	m.conf = testConfig(nil)
	m.conf.Segment = []int64{200, smallSegment, 8000}[m.rand.IntN(3)]
	m.conf.Quota = []int64{20_000, 1 << 20}[m.rand.IntN(2)]
	return m
}

func (m *model) n(n int) int { return m.rand.IntN(n) }

// open opens the spool, with power cuts on the way, and checks what it finds.
func (m *model) open(cuts bool) error {
	for {
		if cuts && m.n(3) == 0 {
			m.disk.CutAfter(m.n(12))
		}
		m.conf.FS = m.wrap(m.disk)
		s, err := Open(m.conf)
		m.disk.CutAfter(-1)
		if err == nil {
			m.s = s
			return m.found()
		}
		if !errors.Is(err, simdisk.ErrPowerCut) {
			return fmt.Errorf("open: %w", err)
		}
		m.counts["cut while opening"]++
		m.disk = m.disk.Crash(m.rand)
	}
}

// found checks what is there after a restart: everything durable, then a beginning of what may be there.
func (m *model) found() error {
	trimmed := m.s.Trimmed()
	if trimmed.Seq > m.trim || trimmed != pointOf(m.recs[:trimmed.Seq]) {
		return fmt.Errorf("trimmed up to %v, should be at most %d", trimmed, m.trim)
	}
	m.trim = trimmed.Seq
	got, err := readAll(m.s, 0, 0)
	if err != nil {
		return err
	}
	if len(got.lost) > 0 {
		return fmt.Errorf("%w: %v", errLost, got.lost)
	}
	have := len(m.recs) - int(m.trim)
	if len(got.recs) < have {
		return fmt.Errorf("%w: %d behind %d, %d were acknowledged", errLost, len(got.recs), m.trim, have)
	}
	more := got.recs[have:]
	if len(more) > len(m.maybe) {
		return fmt.Errorf("%d records too many", len(more)-len(m.maybe))
	}
	m.counts["turned up"] += len(more)
	for i := range more {
		m.settle(m.maybe[i])
	}
	m.maybe, m.waiting = nil, nil
	if n := m.s.Status().Damaged; n > 0 {
		return fmt.Errorf("%d damaged places", n)
	}
	return m.check()
}

// settle adds a record to what is durable.
func (m *model) settle(r Record) {
	r.Seq = uint64(len(m.recs)) + 1
	m.recs = append(m.recs, r)
}

// check compares everything that can be read with the model.
func (m *model) check() error {
	got, err := readAll(m.s, uint64(m.n(len(m.recs)+1)), m.n(20))
	if err != nil {
		return err
	}
	if got, err = readAll(m.s, m.trim, 1+m.n(50)); err != nil {
		return err
	}
	if last := m.s.Last(); last != pointOf(m.recs) {
		return fmt.Errorf("the last record is %d, want %d, or the chain differs", last.Seq, len(m.recs))
	}
	return got.check(m.recs[m.trim:])
}

func (m *model) append() {
	for range 1 + m.n([]int{12, 12, 60}[m.n(3)]) {
		m.made++
		r := Record{Kind: Kind(m.n(3)), TimeMS: int64(m.made), Data: fmt.Appendf(nil, "%d%s", m.made, strings.Repeat("y", m.n(1+m.n(400))))}
		m.waiting = append(m.waiting, r)
		at := len(m.waiting)
		now := true
		m.s.Append(r.Kind, r.TimeMS, r.Data, func(seq uint64, err error) {
			switch {
			case err == nil:
				m.settle(m.waiting[0])
				m.waiting = m.waiting[1:]
				if seq != uint64(len(m.recs)) {
					m.recs[len(m.recs)-1].Data = []byte("wrong number") // check finds it
				}
				m.counts["acknowledged"]++
			case now: // it never existed
				m.waiting = m.waiting[:at-1]
				m.counts["refused: "+reason(err)]++
			default:
				m.maybe = append(m.maybe, m.waiting[0])
				m.waiting = m.waiting[1:]
				m.counts["failed: "+reason(err)]++
			}
		})
		now = false
	}
}

func reason(err error) string {
	for _, e := range []error{ErrBusy, ErrHold, ErrFailed, ErrClosed, ErrTooLarge} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return err.Error()
}

func (m *model) flush() {
	if m.s.flush() {
		m.maybe = nil // once the disk works again it is cut off
	}
}

func (m *model) trimSome() error {
	through := m.trim + uint64(m.n(len(m.recs)-int(m.trim)+1))
	err := m.s.Trim(through)
	if err == nil {
		m.trim = through
	} else if m.s.Trimmed().Seq == through { // it counts, but is not durable
		m.trim, err = through, ignoreFaults(err)
	}
	return ignoreFaults(err)
}

// ignoreFaults drops errors that the model itself causes.
func ignoreFaults(err error) error {
	for _, e := range []error{syscall.EIO, syscall.ENOSPC, simdisk.ErrPowerCut} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// fault has the disk fail once, now or soon.
func (m *model) fault() {
	kinds := []simdisk.Kind{
		simdisk.OpSync, simdisk.OpSync, simdisk.OpWrite, simdisk.OpCreate, simdisk.OpRename, simdisk.OpSyncDir, simdisk.OpTruncate,
		simdisk.OpReserve, simdisk.OpRemove,
	}
	kind := kinds[m.n(len(kinds))]
	m.counts["fault: "+string(kind)]++
	m.disk.SetHook(simdisk.FailNth(kind, 1+m.n(3), []error{syscall.EIO, syscall.ENOSPC}[m.n(2)]))
}

// crash ends the process, with the power or without, and starts it again.
func (m *model) crash(power bool) error {
	m.maybe = append(m.maybe, m.waiting...)
	if power {
		m.counts["power cut"]++
		m.disk = m.disk.Crash(m.rand)
	} else {
		m.counts["kill"]++
		m.disk = m.disk.Kill()
	}
	m.disk.SetHook(nil)
	return m.open(power)
}

// powerCut lets the power go after some operations, in whatever call that is.
func (m *model) powerCut() error {
	m.disk.CutAfter(m.n(30))
	for range 1 + m.n(10) {
		m.append()
		m.flush()
		if m.n(2) == 0 {
			if err := m.trimSome(); err != nil {
				return err
			}
		}
	}
	return m.crash(true)
}

func (m *model) restart() error {
	m.counts["restart"]++
	m.disk.SetHook(nil)
	m.disk.Limit(-1)
	if err := m.s.Close(); err != nil {
		return err
	}
	if n := m.disk.Handles(); n > 0 {
		return fmt.Errorf("%d files are still open", n)
	}
	return m.open(false)
}

func (m *model) step() error {
	switch m.n(20) {
	case 0:
		return m.powerCut()
	case 1:
		return m.crash(m.n(2) == 0)
	case 2:
		return m.restart()
	case 3:
		m.fault()
	case 4:
		m.disk.SetHook(nil)
		m.disk.Limit(-1)
	case 5:
		m.counts["little room"]++
		m.disk.Limit(m.disk.Used() + int64(m.n(3000)))
	case 6, 7, 8:
		return m.trimSome()
	case 9, 10:
		return m.check()
	default:
		m.append()
		m.flush()
	}
	return nil
}

// run goes so many steps and then checks that the spool works once the disk does.
func (m *model) run(steps int) error {
	if err := m.open(false); err != nil {
		return err
	}
	for i := range steps {
		if err := m.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	m.disk.SetHook(nil)
	m.disk.Limit(-1)
	m.flush()
	if err := m.s.Trim(uint64(len(m.recs))); err != nil {
		return fmt.Errorf("trim everything: %w", err)
	}
	m.trim = uint64(len(m.recs))
	if used := m.disk.Used(); used > max(m.conf.Segment, 1000)+markFile {
		return fmt.Errorf("a drained spool takes %d bytes: %v", used, m.disk.Files())
	}
	m.append()
	if m.flush(); len(m.recs) == int(m.trim) {
		return fmt.Errorf("a spool that is empty takes nothing: %+v", m.s.Status())
	}
	if err := m.check(); err != nil {
		return err
	}
	return m.restart()
}

// errLost is what the model finds when acknowledged records are missing.
var errLost = errors.New("acknowledged records are missing")

func plain(f disk.FS) disk.FS { return f }

// Whatever happens: every record that was acknowledged is there, in order, once; none is there that was not appended; and numbers never go back.
func TestAgainstModel(t *testing.T) {
	seeds, counts := uint64(300), make(map[string]int)
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		m := newModel(seed, plain)
		if err := m.run(100); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k, n := range m.counts {
			counts[k] += n
		}
	}
	t.Log(counts)
	for _, k := range []string{
		"acknowledged", "turned up", "power cut", "kill", "restart", "cut while opening", "refused: " + ErrHold.Error(),
		"failed: " + ErrFailed.Error(), "failed: " + ErrHold.Error(), "refused: " + ErrFailed.Error(),
	} {
		if counts[k] < int(seeds)/10 {
			t.Errorf("%q happened only %d times", k, counts[k])
		}
	}
}

// forgetful is a disk whose Sync does nothing.
type forgetful struct{ disk.FS }

type forgetfulFile struct{ disk.File }

func (forgetfulFile) Sync() error { return nil }

func (f forgetful) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return forgetfulFile{file}, nil
}

// sloppy is a disk whose SyncDir does nothing.
type sloppy struct{ disk.FS }

func (sloppy) SyncDir(string) error { return nil }

// The control: when the spool does not sync, or not the names, the model finds that acknowledged records are missing.
func TestModelSeesMissingSyncs(t *testing.T) {
	for name, wrap := range map[string]func(disk.FS) disk.FS{
		"no sync": func(f disk.FS) disk.FS { return forgetful{f} }, "no sync of names": func(f disk.FS) disk.FS { return sloppy{f} },
	} {
		var err error
		for seed := uint64(0); seed < 20 && !errors.Is(err, errLost); seed++ {
			err = newModel(seed, wrap).run(100)
		}
		if !errors.Is(err, errLost) {
			t.Errorf("%s: no loss was found, but %v", name, err)
		}
	}
}
