package wire

import (
	"fmt"
	"time"
)

// A session of its own carries content: its first frame is a Fetch, in the place of an Attach, of an UplinkHello or of a
// sibling's bytes. Each Fetch is answered with one Blob, in the order in which they came.

// A ContentKind says what is fetched. Kinds are append-only.
type ContentKind uint8

// The kinds of content.
const (
	ContentChunk      ContentKind = 1 // a chunk, by its digest
	ContentManifest   ContentKind = 2 // a part of an artifact's manifest, by the artifact's digest
	ContentRelease    ContentKind = 3 // an artifact's sealed release, by the artifact's digest
	ContentPublishers ContentKind = 4 // a sealed set of publishers, by its number
)

// String is the kind as logs have it.
func (k ContentKind) String() string {
	if n := [...]string{"content", "chunk", "manifest", "release", "publishers"}; int(k) < len(n) {
		return n[k]
	}
	return "content"
}

// Bounds of content.
const (
	MaxChunk    = 256 << 10 // bytes of a chunk, before it is compressed
	MaxPart     = 256 << 10 // bytes of a manifest in one Blob
	MaxManifest = 16 << 20  // bytes of a manifest
	MaxFetches  = 16        // under way in a session
)

// A Fetch asks for a piece of content.
type Fetch struct {
	Capability uint32      `cbor:"1,keyasint"`
	Kind       ContentKind `cbor:"2,keyasint"`
	Digest     Digest      `cbor:"3,keyasint"`           // zero for a set of publishers
	Offset     uint64      `cbor:"4,keyasint,omitempty"` // manifests: of the part, in bytes
	Number     uint64      `cbor:"5,keyasint,omitempty"` // publishers: of the set, from 1
	Local      bool        `cbor:"6,keyasint,omitempty"` // whoever is asked answers with what it has, and asks nobody
}

// A Codec says how the data of a Blob is encoded. Codecs are append-only.
type Codec uint8

// The codecs.
const (
	CodecRaw  Codec = 0
	CodecZstd Codec = 1 // one frame of Zstandard (RFC 8878)
)

// A Blob answers a Fetch. Nothing in it is true before it was held against the digest that was asked for.
type Blob struct {
	Codec        Codec  `cbor:"1,keyasint,omitempty"`
	Data         []byte `cbor:"2,keyasint,omitempty"`
	Total        uint64 `cbor:"3,keyasint,omitempty"` // manifests: bytes of the whole
	Code         Code   `cbor:"4,keyasint,omitempty"` // why there is no data; 0: there is
	Detail       string `cbor:"5,keyasint,omitempty"`
	RetryAfterMS uint32 `cbor:"6,keyasint,omitempty"` // with Code
}

// A ContentLimit is what a site's gateways hold to when they fetch content over the WAN.
type ContentLimit struct {
	BytesPerSecond uint64 `cbor:"1,keyasint,omitempty"` // of the site together; 0: no limit
	Window         string `cbor:"2,keyasint,omitempty"` // "22:00-05:00" in UTC, when content may be fetched; "": always
}

// maxRate bounds ContentLimit.BytesPerSecond: no WAN is faster, and what multiplies it by a time does not overflow.
const maxRate = 1 << 40

// Check holds the limit against its rules. The error is ErrMalformed.
func (l *ContentLimit) Check() error {
	if l.BytesPerSecond > maxRate {
		return fmt.Errorf("content limit of %d bytes per second, at most %d: %w", l.BytesPerSecond, int64(maxRate), ErrMalformed)
	}
	_, _, err := ParseWindow(l.Window)
	return err
}

const day = 24 * time.Hour

// ParseWindow reads a daily window such as "22:00-05:00": when it opens and closes, counted from midnight UTC. It closes on the
// next day if it closes before it opens. "" is always open: 0 to 24 hours. The error is ErrMalformed.
func ParseWindow(s string) (opens, closes time.Duration, err error) {
	if s == "" {
		return 0, day, nil
	}
	bad := fmt.Errorf("window %.40q, want two different times of day in UTC such as 22:00-05:00: %w", s, ErrMalformed)
	if len(s) != len("22:00-05:00") || s[5] != '-' {
		return 0, 0, bad
	}
	if opens, err = timeOfDay(s[:5]); err != nil {
		return 0, 0, bad
	}
	if closes, err = timeOfDay(s[6:]); err != nil || opens == closes {
		return 0, 0, bad
	}
	return opens, closes, nil
}

// timeOfDay reads "22:00".
func timeOfDay(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", s)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err
}
