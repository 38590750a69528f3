package witness

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
)

// Bounds of the file of heads kept. Whichever is met first makes it be thinned.
const (
	maxLines = 50_000
	maxBytes = 16 << 20
	maxLine  = 8 << 10
)

// A Line is one head as witness.log keeps it.
type Line struct {
	Seq          uint64    `json:"seq"`           // number of the newest record, from 1
	Hash         string    `json:"hash"`          // of the trail's chain after it, hexadecimal
	LogTime      time.Time `json:"log_time"`      // of the core, when it was sealed
	ClusterEpoch uint64    `json:"cluster_epoch"` // of the core
	Sealed       []byte    `json:"sealed"`        // the head as the authority signed it, base64
}

// order compares by place in the trail.
func order(a, b *mark) int {
	return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.seq, b.seq))
}

// after tells whether l is later in the trail than b.
func (l *Line) after(b *Line) bool {
	return order(&mark{epoch: l.ClusterEpoch, seq: l.Seq}, &mark{epoch: b.ClusterEpoch, seq: b.Seq}) > 0
}

// A mark is what is held in memory of a line: enough to know a contradiction.
type mark struct {
	epoch, seq uint64
	hash       [32]byte
	ms         int64 // log time, Unix ms
}

func (l *Line) mark() (m mark, err error) {
	b, err := hex.DecodeString(l.Hash)
	if err != nil || len(b) != len(m.hash) || l.Seq == 0 || len(l.Sealed) == 0 {
		return m, fmt.Errorf("no head of an audit trail: %w", durable.ErrDamaged)
	}
	m = mark{epoch: l.ClusterEpoch, seq: l.Seq, ms: l.LogTime.UnixMilli()}
	copy(m.hash[:], b)
	return m, nil
}

// kept is the file of heads, open for appending.
type kept struct {
	path  string
	f     *os.File
	size  int64
	marks []mark // of each line, ascending in the trail
	limit limits
}

// limits are the bounds of a file; tests make them small.
type limits struct {
	lines int
	bytes int64
}

// openKept opens the file, or makes it. Lines that do not read, the torn last one of a power cut among them, are reported and
// left out. It returns the newest line too; zero: there is none.
func openKept(dir string, log *slog.Logger) (k *kept, newest Line, err error) {
	k = &kept{path: Path(dir), limit: limits{maxLines, maxBytes}}
	var out bytes.Buffer
	whole, n := true, 0
	err = eachLine(k.path, func(raw []byte) error {
		n++
		var l Line
		m, err := parse(raw, &l)
		if err == nil && len(k.marks) > 0 && order(&k.marks[len(k.marks)-1], &m) >= 0 {
			err = fmt.Errorf("out of order: %w", durable.ErrDamaged)
		}
		if err != nil {
			log.Error("witness: a line left out", "file", k.path, "line", n, "err", err)
			whole = false
			return nil
		}
		k.marks = append(k.marks, m)
		newest = l
		out.Write(raw)
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, Line{}, fmt.Errorf("read %s: %w", k.path, err)
	}
	if !whole {
		if err := durable.WriteFile(k.path, out.Bytes(), 0o600); err != nil {
			return nil, Line{}, err
		}
	}
	return k, newest, k.open()
}

// parse reads a line with its newline.
func parse(raw []byte, l *Line) (mark, error) {
	if len(raw) == 0 || raw[len(raw)-1] != '\n' {
		return mark{}, fmt.Errorf("torn: %w", durable.ErrDamaged)
	}
	if err := json.Unmarshal(raw, l); err != nil {
		return mark{}, fmt.Errorf("%w: %w", durable.ErrDamaged, err)
	}
	return l.mark()
}

// eachLine calls f with each line of a file, its newline included. Of a line that is too long f sees only pieces, which do not
// parse; what lies behind the bound of the file is not read.
func eachLine(path string, f func(raw []byte) error) (err error) {
	file, err := os.Open(path) //nolint:gosec // G304: in the gateway's own directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	r := bufio.NewReaderSize(io.LimitReader(file, maxBytes+maxLine), maxLine)
	for {
		raw, err := r.ReadSlice('\n')
		if len(raw) > 0 {
			if err := f(raw); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// open opens the file for appending and makes its name durable.
func (k *kept) open() error {
	f, err := os.OpenFile(k.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		err = durable.SyncDir(filepath.Dir(k.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	k.f, k.size = f, st.Size()
	return nil
}

// append keeps a line, durably. After an error the file is closed and must be opened anew.
func (k *kept) append(l *Line) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("append to %s: %w", k.path, err), k.close())
		}
	}()
	m, err := l.mark()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	if len(k.marks) >= k.limit.lines || k.size+int64(len(raw)) > k.limit.bytes {
		if err := k.thin(); err != nil {
			return err
		}
	}
	if _, err := k.f.Write(raw); err != nil {
		return err
	}
	if err := k.f.Sync(); err != nil {
		return err
	}
	k.size += int64(len(raw))
	k.marks = append(k.marks, m)
	return nil
}

// thin writes the file anew without the lines that the rule lets go: it has at most half of its bounds then.
func (k *kept) thin() error {
	stay := thinned(k.marks, k.limit.lines/2)
	out, err := k.lines(stay)
	for err == nil && int64(len(out)) > k.limit.bytes/2 && everySecond(stay) {
		out, err = k.lines(stay)
	}
	if err != nil {
		return err
	}
	if err := durable.WriteFile(k.path, out, 0o600); err != nil {
		return err
	}
	marks := make([]mark, 0, len(stay))
	for i, s := range stay {
		if s {
			marks = append(marks, k.marks[i])
		}
	}
	k.marks = marks
	if err := k.close(); err != nil {
		return err
	}
	return k.open()
}

// lines reads the lines that stay.
func (k *kept) lines(stay []bool) ([]byte, error) {
	var out bytes.Buffer
	n := 0
	err := eachLine(k.path, func(raw []byte) error {
		if n < len(stay) && stay[n] {
			out.Write(raw)
		}
		n++
		return nil
	})
	if err == nil && n != len(stay) {
		err = fmt.Errorf("%s has %d lines, want %d: %w", k.path, n, len(stay), durable.ErrDamaged)
	}
	return out.Bytes(), err
}

// agePart is the part of its age by which a line must be later than the one before it to stay when the file is thinned.
const agePart = 2000

// thinned says which of the lines stay, at most most of them. The first and the last one always do. Between them a line stays
// if it is later than the one before it that stays by at least 1/agePart of its age: the last day and a half stay whole, and
// a line of a year ago has neighbours four hours away. Where log times do not behave, every second one goes until it is enough.
func thinned(marks []mark, most int) []bool {
	stay := make([]bool, len(marks))
	if len(marks) == 0 {
		return stay
	}
	last := len(marks) - 1
	stay[0], stay[last] = true, true
	n, before := 2, marks[0].ms
	for i := 1; i < last; i++ {
		if age := marks[last].ms - marks[i].ms; marks[i].ms-before >= max(age/agePart, 1) {
			stay[i], before = true, marks[i].ms
			n++
		}
	}
	for n > max(most, 2) {
		everySecond(stay)
		n = count(stay)
	}
	return stay
}

// everySecond lets every second line go of those that stay, but never the first and the last; false: there is none to let go.
func everySecond(stay []bool) bool {
	seen, gone := 0, false
	for i := range stay {
		if !stay[i] {
			continue
		}
		if seen++; seen%2 == 0 && i != len(stay)-1 {
			stay[i], gone = false, true
		}
	}
	return gone
}

func count(stay []bool) int {
	n := 0
	for _, s := range stay {
		if s {
			n++
		}
	}
	return n
}

// hash is what was kept of the same record, hexadecimal.
func (k *kept) hash(l *Line) (string, bool) {
	want := mark{epoch: l.ClusterEpoch, seq: l.Seq}
	i, ok := slices.BinarySearchFunc(k.marks, want, func(a, b mark) int { return order(&a, &b) })
	if !ok {
		return "", false
	}
	return hex.EncodeToString(k.marks[i].hash[:]), true
}

var errGone = errors.New("no such line")

// read finds the line of a record in the file.
func (k *kept) read(epoch, seq uint64) (out Line, err error) {
	found := false
	err = eachLine(k.path, func(raw []byte) error {
		var l Line
		if m, err := parse(raw, &l); err == nil && m.epoch == epoch && m.seq == seq {
			out, found = l, true
		}
		return nil
	})
	if err == nil && !found {
		err = errGone
	}
	return out, err
}

func (k *kept) close() error {
	f := k.f
	if f == nil {
		return nil
	}
	k.f = nil
	return f.Close()
}
