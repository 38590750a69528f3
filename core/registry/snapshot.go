package registry

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unique"

	"github.com/holdfast-edge/holdfast/wire"
)

// A snapshot is a sequence of records, each a kind (1 byte), a length (4 bytes, big endian) and CBOR. It starts with a
// header and ends with an end record that counts the others. docs/core-state.md has the table.
const (
	snapHeader   = 1
	snapFleet    = 2
	snapDevice   = 3
	snapSite     = 4
	snapGateway  = 5
	snapToken    = 6
	snapOperator = 7
	snapUse      = 8
	snapRepeat   = 9
	snapArtifact = 10

	snapPublishers = 11
	snapEnd        = 255

	snapVersion   = 1
	maxSnapRecord = 16 << 20
)

// ErrSnapshot is the sentinel of a snapshot that does not read.
var ErrSnapshot = errors.New("snapshot is damaged or of a later version")

type snapshotHeader struct {
	Version uint32 `cbor:"1,keyasint"`
	Index   uint64 `cbor:"2,keyasint"`
	TimeMS  int64  `cbor:"3,keyasint"`
	Audit   Mark   `cbor:"4,keyasint"`
	History Mark   `cbor:"5,keyasint"`
	Facts   uint64 `cbor:"6,keyasint,omitempty"` // number of the newest fact
}

type snapshotEnd struct {
	Records uint64 `cbor:"1,keyasint"`
}

// A snapWriter writes records and remembers the first error.
type snapWriter struct {
	w   *bufio.Writer
	n   uint64
	err error
}

func (s *snapWriter) put(kind byte, v any) bool {
	if s.err != nil {
		return false
	}
	b, err := wire.Marshal(v)
	if err != nil {
		s.err = err
		return false
	}
	var h [5]byte
	h[0] = kind
	binary.BigEndian.PutUint32(h[1:], uint32(len(b))) //nolint:gosec // G115: a record is far below 4 GiB
	s.w.Write(h[:])                                   //nolint:errcheck // a bufio.Writer remembers its error; the next line returns it
	_, s.err = s.w.Write(b)
	s.n++
	return s.err == nil
}

// Persist streams the view as a snapshot. It holds no lock and needs little memory.
func (v View) Persist(w io.Writer) error {
	s := &snapWriter{w: bufio.NewWriterSize(w, 256<<10)}
	s.put(snapHeader, snapshotHeader{Version: snapVersion, Index: v.index, TimeMS: v.time.UnixMilli(), Audit: v.audit, History: v.history, Facts: v.facts})
	if v.fleet != nil {
		s.put(snapFleet, v.fleet)
	}
	v.sites.all(func(x *Site) bool { return s.put(snapSite, x) })
	v.gateways.all(func(x *Gateway) bool { return s.put(snapGateway, x) })
	v.devices.all(func(x *Device) bool { return s.put(snapDevice, x) })
	v.tokens.all(func(x *Token) bool { return s.put(snapToken, x) })
	v.uses.all(func(x *Use) bool { return s.put(snapUse, x) })
	v.operators.all(func(x *Operator) bool { return s.put(snapOperator, x) })
	v.repeats.all(func(x *Repeat) bool { return s.put(snapRepeat, x) })
	v.publishers.all(func(x *PublisherSet) bool { return s.put(snapPublishers, x) })
	v.artifacts.all(func(x *Artifact) bool { return s.put(snapArtifact, x) })
	s.put(snapEnd, snapshotEnd{Records: s.n})
	if s.err != nil {
		return fmt.Errorf("write snapshot: %w", s.err)
	}
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Restore reads a snapshot into a fresh state. The caller replaces its own only when there is no error.
func Restore(r io.Reader) (*State, error) {
	s := &restorer{State: New(), tags: make(map[string]map[string]string)}
	br := bufio.NewReaderSize(r, 256<<10)
	var n uint64
	for {
		kind, b, err := readSnapRecord(br)
		if err != nil {
			return nil, err
		}
		if n == 0 && kind != snapHeader {
			return nil, fmt.Errorf("no header: %w", ErrSnapshot)
		}
		if kind == snapEnd {
			var e snapshotEnd
			if err := wire.Unmarshal(b, &e); err != nil || e.Records != n {
				return nil, fmt.Errorf("%d records, %d expected: %w", n, e.Records, ErrSnapshot)
			}
			return s.State, nil
		}
		if err := s.restore(kind, b); err != nil {
			return nil, fmt.Errorf("record %d: %w: %w", n, ErrSnapshot, err)
		}
		n++
	}
}

func readSnapRecord(r io.Reader) (kind byte, b []byte, err error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, fmt.Errorf("cut off: %w: %w", ErrSnapshot, err)
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxSnapRecord {
		return 0, nil, fmt.Errorf("record of %d bytes: %w", n, ErrSnapshot)
	}
	b = make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, fmt.Errorf("cut off: %w: %w", ErrSnapshot, err)
	}
	return h[0], b, nil
}

// A restorer reads records into a state. What Apply lets records share, it lets them share again: decoded one by one, each of
// a hundred thousand devices would hold a copy of its token's tags and of its site's and gateway's names.
type restorer struct {
	*State
	tags map[string]map[string]string // by their encoding
}

// share lets a device share what is equal in others.
func (s *restorer) share(d *Device) error {
	d.Site, d.Presence.Gateway = unique.Make(d.Site).Value(), unique.Make(d.Presence.Gateway).Value()
	d.Desired.share()
	d.Reported.share()
	if d.TokenTags == nil {
		return nil
	}
	b, err := wire.Marshal(d.TokenTags)
	if err != nil {
		return err
	}
	if same, ok := s.tags[string(b)]; ok {
		d.TokenTags = same
	} else {
		s.tags[string(b)] = d.TokenTags
	}
	return nil
}

func (s *restorer) restore(kind byte, b []byte) error {
	switch kind {
	case snapHeader:
		var h snapshotHeader
		if err := wire.Unmarshal(b, &h); err != nil {
			return err
		}
		if h.Version != snapVersion {
			return fmt.Errorf("version %d, this build reads %d", h.Version, snapVersion)
		}
		s.view.index, s.view.time = h.Index, time.UnixMilli(h.TimeMS).UTC()
		s.view.audit, s.view.history, s.view.facts = h.Audit, h.History, h.Facts
		return nil
	case snapFleet:
		s.view.fleet = new(Fleet)
		return wire.Unmarshal(b, s.view.fleet)
	case snapSite:
		return restoreInto(&s.view.sites, b)
	case snapGateway:
		g := new(Gateway)
		if err := wire.Unmarshal(b, g); err != nil {
			return err
		}
		s.view.gateways.put(g)
		for _, k := range g.Keys {
			s.view.keys.put(&keyRef{Key: k.ID, Gateway: g.ID()})
		}
		return nil
	case snapDevice:
		return s.restoreDevice(b)
	case snapToken:
		return restoreInto(&s.view.tokens, b)
	case snapUse:
		return restoreInto(&s.view.uses, b)
	case snapOperator:
		o := new(Operator)
		if err := wire.Unmarshal(b, o); err != nil {
			return err
		}
		s.view.operators.put(o)
		s.view.bearers.put(&bearer{Hash: o.Hash, Operator: o.ID})
		return nil
	case snapRepeat:
		r := new(Repeat)
		if err := wire.Unmarshal(b, r); err != nil {
			return err
		}
		s.putRepeat(r)
		return nil
	case snapArtifact:
		return restoreInto(&s.view.artifacts, b)
	case snapPublishers:
		return restoreInto(&s.view.publishers, b)
	}
	return fmt.Errorf("unknown kind %d", kind)
}

func (s *restorer) restoreDevice(b []byte) error {
	d := new(Device)
	if err := wire.Unmarshal(b, d); err != nil {
		return err
	}
	if err := s.share(d); err != nil {
		return err
	}
	s.putDevice(d)
	for _, k := range d.Keys {
		s.view.keys.put(&keyRef{Key: k.ID, Device: d.ID})
	}
	return nil
}

func restoreInto[K, V any](t *table[K, V], b []byte) error {
	v := new(V)
	if err := wire.Unmarshal(b, v); err != nil {
		return err
	}
	t.put(v)
	return nil
}
