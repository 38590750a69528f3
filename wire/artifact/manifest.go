package artifact

import (
	"bytes"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
)

// Format is the format of manifests that this build writes and reads.
const Format = 1

// A Kind says what an artifact is once it is installed. Kinds are append-only.
type Kind uint8

// The kinds.
const (
	KindTree Kind = 1 // a directory
	KindFile Kind = 2 // one file
)

// String is the kind as manifests in YAML and the API write it.
func (k Kind) String() string {
	switch k {
	case KindTree:
		return "tree"
	case KindFile:
		return "file"
	}
	return fmt.Sprintf("kind_%d", uint8(k))
}

// A Manifest is one version of an artifact. The digest of its bytes names the artifact.
type Manifest struct {
	Format  uint8         `cbor:"1,keyasint"`
	Name    string        `cbor:"2,keyasint"` // see CheckName
	Version string        `cbor:"3,keyasint"` // for people; see CheckVersion
	Number  uint64        `cbor:"4,keyasint"` // of the release, from 1: grows from release to release of a name
	Kind    Kind          `cbor:"5,keyasint"`
	Fits    Compatibility `cbor:"6,keyasint"`
	Health  []Check       `cbor:"7,keyasint,omitempty"` // at most MaxChecks; none: what is applied is healthy
	// SoakMS is for how long all checks must pass without a break before the version counts as healthy, in ms.
	SoakMS uint32 `cbor:"8,keyasint,omitempty"`
	// StartMS is how long after the switch the checks may fail before the version counts as unhealthy, in ms; 0: DefaultStart.
	StartMS uint32  `cbor:"9,keyasint,omitempty"`
	Unit    string  `cbor:"10,keyasint,omitempty"` // systemd unit that is restarted after the switch; "": none
	Entries []Entry `cbor:"11,keyasint"`           // in order of path, each directory before what is in it
	Patches []Patch `cbor:"12,keyasint,omitempty"` // at most MaxPatches, in order of Base and File
}

// Compatibility says which devices an artifact is for. Of each list that is not empty, the device's value must be one.
type Compatibility struct {
	Arch         []string `cbor:"1,keyasint,omitempty"` // as the hardware profile has it, such as "arm64"
	SoC          []string `cbor:"2,keyasint,omitempty"` // such as "nvidia-jetson-xavier-nx"
	Accelerators []string `cbor:"3,keyasint,omitempty"` // the device must have all of them
	MinRAM       uint64   `cbor:"4,keyasint,omitempty"` // bytes
	OS           []string `cbor:"5,keyasint,omitempty"` // beginnings of the pretty name, such as "Ubuntu 22.04"
}

// A CheckKind says what a health check looks at. Kinds are append-only.
type CheckKind uint8

// The kinds of checks.
const (
	CheckFile CheckKind = 1 // Path is there, in the release, and is no directory
	CheckExec CheckKind = 2 // Path, in the release, run with Args, exits with 0
	CheckHTTP CheckKind = 3 // a GET of Path from Port on loopback is answered with a status of 200 to 299
	CheckTCP  CheckKind = 4 // Port on loopback takes a connection
	CheckUnit CheckKind = 5 // the systemd unit Unit is active
)

// A Check is one health check.
type Check struct {
	Kind      CheckKind `cbor:"1,keyasint"`
	Path      string    `cbor:"2,keyasint,omitempty"` // in the release (file, exec), or of the URL (http)
	Args      []string  `cbor:"3,keyasint,omitempty"` // exec; at most MaxArgs
	Port      uint16    `cbor:"4,keyasint,omitempty"` // http, tcp
	Unit      string    `cbor:"5,keyasint,omitempty"` // unit
	TimeoutMS uint32    `cbor:"6,keyasint,omitempty"` // of one try; 0: DefaultTimeout
	EveryMS   uint32    `cbor:"7,keyasint,omitempty"` // from try to try; 0: DefaultEvery
}

// An EntryType says what lies at a path. Types are append-only; there are no others than these on a device.
type EntryType uint8

// The types.
const (
	TypeFile    EntryType = 1
	TypeDir     EntryType = 2
	TypeSymlink EntryType = 3
)

// An Entry is one file, directory or symbolic link. The root of a tree is no entry.
type Entry struct {
	Path   string      `cbor:"1,keyasint"` // with slashes, relative to the release
	Type   EntryType   `cbor:"2,keyasint"`
	Mode   uint32      `cbor:"3,keyasint,omitempty"` // permission bits; symbolic links have none
	Size   uint64      `cbor:"4,keyasint,omitempty"` // files: bytes
	Digest wire.Digest `cbor:"5,keyasint"`           // files: of the whole content; otherwise zero
	Chunks Chunks      `cbor:"6,keyasint,omitempty"` // files: of the content, in order
	Target string      `cbor:"7,keyasint,omitempty"` // symbolic links
}

// A Patch makes a file out of another one: it is a Zstandard frame whose dictionary is the base, and comes in chunks like any content.
type Patch struct {
	Base     wire.Digest `cbor:"1,keyasint"` // of the file that it is applied to
	BaseSize uint64      `cbor:"2,keyasint"` // bytes
	File     wire.Digest `cbor:"3,keyasint"` // of the entry that it makes
	Size     uint64      `cbor:"4,keyasint"` // bytes of the patch
	Chunks   Chunks      `cbor:"5,keyasint"`
}

// Size is the bytes of all files.
func (m *Manifest) Size() (n uint64) {
	for i := range m.Entries {
		n += m.Entries[i].Size
	}
	return n
}

// Encode returns the manifest's bytes, which are the same for the same manifest, and the digest that names the artifact.
func (m *Manifest) Encode() ([]byte, wire.Digest, error) {
	if err := m.Check(); err != nil {
		return nil, wire.Digest{}, err
	}
	b, err := wire.Marshal(m)
	if err != nil {
		return nil, wire.Digest{}, err
	}
	if len(b) > wire.MaxManifest {
		return nil, wire.Digest{}, fmt.Errorf("manifest of %d bytes, limit %d: have fewer files or larger ones: %w", len(b), wire.MaxManifest, ErrManifest)
	}
	return b, wire.DigestOf(b), nil
}

// Decode reads a manifest's bytes and holds them against the rules. Whether a publisher signed them is not known yet. A manifest that has
// more than this build knows, or is in another form than Encode's, is refused: what is installed is all that was signed. The error is
// ErrManifest.
func Decode(b []byte) (*Manifest, error) {
	if len(b) > wire.MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, limit %d: %w", len(b), wire.MaxManifest, ErrManifest)
	}
	m := new(Manifest)
	if err := wire.UnmarshalDocument(b, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	again, err := wire.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if !bytes.Equal(again, b) {
		return nil, bad("it has keys that are not known, or is not in deterministic form: a newer build may be needed")
	}
	return m, nil
}
