package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	// damagedSuffix marks a file that did not read, kept for whoever wants to look. There is one at most.
	damagedSuffix = ".damaged"
	// slack is how far the file may outgrow twice of what it had when it was written anew, before that happens again.
	slack = 1 << 20
	// retryWrite is the wait after the disk failed.
	retryWrite = 30 * time.Second
	// maxPending bounds what waits for the disk; beyond it the file is written anew, from what is held anyway.
	maxPending = 2 * maxDevices
)

// Open reads a mirror from the disk. It does not fail: a mirror that cannot be read is told anew by the core. Run keeps the file.
func Open(c Config) *Mirror {
	m := empty(c)
	f, err := os.Open(c.Path)
	if err == nil {
		err = errors.Join(m.load(f), f.Close())
	}
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist):
		m.rewrite = true
	case errors.Is(err, errTorn):
		m.Log.Info("mirror: a last write that a power cut ended is left out", "file", m.Path)
	default:
		m.Log.Error("mirror: the file is damaged; what still verifies is used, and the core tells the rest anew", "file", m.Path, "kept", m.Path+damagedSuffix, "err", err)
		if err := m.setAside(); err != nil {
			m.Log.Error("mirror: the damaged file is not kept", "err", err)
		}
	}
	return m
}

func empty(c Config) *Mirror {
	return &Mirror{
		Config: c, wake: make(chan struct{}, 1), noise: rate.NewLimiter(rate.Every(10*time.Second), 10), devices: make(map[ident.DeviceID]*record),
		orders: make(map[ident.DeviceID]order),
	}
}

// load takes what a file says and still verifies. The error is errTorn or what is damaged; the file is to be written anew then.
func (m *Mirror) load(r io.Reader) error {
	err := readFrames(r, m.loadFrame)
	m.pending = nil // it is on the disk already
	m.rewrite = err != nil
	if err != nil && !errors.Is(err, errTorn) {
		m.known = seal.Stamp{} // something that it vouches for may be lost
	}
	return err
}

// loadFrame takes one frame of the file; everything signed is verified again.
func (m *Mirror) loadFrame(kind byte, body []byte) error {
	switch kind {
	case kindEntry:
		_, _, err := m.entry(body)
		return err
	case kindList:
		_, err := m.gateways(body)
		return err
	case kindMark:
		var k mark
		if err := wire.Unmarshal(body, &k); err != nil {
			return err
		}
		m.known = seal.Stamp(k)
	case kindOrder:
		_, _, err := m.order(body)
		return err
	case kindSettings:
		var s settings
		if err := wire.Unmarshal(body, &s); err != nil {
			return err
		}
		if err := s.Content.Check(); err != nil {
			return err
		}
		m.settings = s
	case kindAge:
		var a age
		if err := wire.Unmarshal(body, &a); err != nil {
			return err
		}
		m.aged(a.Device, time.Duration(a.Days)*day)
	}
	return nil // of a later build
}

// setAside gives the damaged file a second name. Under the first one it stands until Run has written what still verifies.
func (m *Mirror) setAside() error {
	if err := os.Remove(m.Path + damagedSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Link(m.Path, m.Path+damagedSuffix)
}

// write queues a frame for the disk. The caller holds mu.
func (m *Mirror) write(f frame) {
	if m.pending = append(m.pending, f); len(m.pending) > maxPending {
		m.pending, m.rewrite = nil, true
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// all is everything that the file must have.
func (m *Mirror) all() []frame {
	out := make([]frame, 0, len(m.devices)+2)
	for id, r := range m.devices {
		if r.sealed == nil {
			continue
		}
		out = append(out, frame{kindEntry, r.sealed})
		if r.guest && r.idle >= day {
			out = append(out, ageFrame(id, r.idle))
		}
		if o, ok := m.orders[id]; ok {
			out = append(out, frame{kindOrder, o.sealed})
		}
	}
	if m.settings != (settings{}) {
		out = append(out, settingsFrame(m.settings))
	}
	if m.list.sealed != nil {
		out = append(out, frame{kindList, m.list.sealed})
	}
	if m.known != (seal.Stamp{}) {
		out = append(out, markFrame(m.known)) // behind the entries that it vouches for
	}
	return out
}

// Run keeps the file until ctx ends. No failure of the disk ends it: what is told counts, written or not.
func (m *Mirror) Run(ctx context.Context) {
	d := disk{path: m.Path}
	defer d.close()
	grow := time.NewTicker(ageEvery)
	defer grow.Stop()
	for {
		wake, again := m.wake, (<-chan time.Time)(nil)
		if err := m.flush(&d); err != nil {
			m.Log.Error("mirror: not written, trying again later", "err", err, "retry_in", retryWrite.String())
			wake, again = nil, time.After(retryWrite)
		}
		select {
		case <-wake:
		case <-again:
		case <-grow.C:
			m.age(ageEvery)
		case <-ctx.Done():
			if err := m.flush(&d); err != nil {
				m.Log.Error("mirror: not written at the stop", "err", err)
			}
			return
		}
	}
}

// flush writes what waits. After a failure the file is never gone on with, but written anew.
func (m *Mirror) flush(d *disk) error {
	m.mu.Lock()
	frames, anew := m.pending, m.rewrite || d.outgrown()
	if anew {
		frames = m.all()
	}
	m.pending, m.rewrite = nil, false
	m.mu.Unlock()
	var err error
	switch {
	case anew:
		err = d.replace(frames)
	case len(frames) > 0:
		err = d.append(frames)
	}
	if err != nil {
		m.mu.Lock()
		m.rewrite = true
		m.mu.Unlock()
	}
	return err
}

// A disk is the file, open for appending. It belongs to one goroutine.
type disk struct {
	path string
	f    *os.File // nil: not open
	size int64
	base int64 // size when it was opened or written anew
}

func (d *disk) outgrown() bool { return d.f != nil && d.size > 2*d.base+slack }

func (d *disk) close() {
	if d.f != nil {
		d.f.Close() //nolint:errcheck // every write was synced
		d.f = nil
	}
}

func (d *disk) open() error {
	f, err := os.OpenFile(d.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", d.path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open %s: %w", d.path, err), f.Close())
	}
	d.f, d.size, d.base = f, info.Size(), info.Size()
	return nil
}

// append adds frames, and returns when they are durable.
func (d *disk) append(frames []frame) error {
	if d.f == nil {
		if err := d.open(); err != nil {
			return err
		}
	}
	var b []byte
	for _, f := range frames {
		b = f.append(b)
	}
	n, err := d.f.Write(b)
	d.size += int64(n)
	if err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		d.close()
		return fmt.Errorf("append to %s: %w", d.path, err)
	}
	return nil
}

// replace writes the file anew.
func (d *disk) replace(frames []frame) error {
	d.close()
	b := []byte(fileMagic)
	for _, f := range frames {
		b = f.append(b)
	}
	if err := durable.WriteFile(d.path, b, 0o600); err != nil {
		return err
	}
	return d.open()
}
