package install

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A version is an artifact as a test makes it, with the content that a Fetcher brings.
type version struct {
	m       *artifact.Manifest
	d       wire.Digest
	b       []byte
	content map[wire.Digest][]byte
}

// chunkSize of the artifacts of tests, in bytes.
const chunkSize = 1000

// A node is an entry as a test writes it: "dir/", "link -> target" or a file with its content.
type node struct {
	path    string
	content []byte
	mode    uint32
}

func file(path, content string) node { return node{path, []byte(content), 0o644} }

// noise is content that has no chunk twice.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8(sha256.Sum256([]byte(fmt.Sprint(seed))))
	r.Read(b) //nolint:errcheck // it never fails
	return b
}

func (v *version) cut(b []byte) (c artifact.Chunks) {
	for p := range slices.Chunk(b, chunkSize) {
		d := wire.DigestOf(p)
		v.content[d] = p
		c.Add(artifact.Chunk{Digest: d, Size: uint32(len(p))})
	}
	return c
}

// makeVersion makes an artifact of nodes, which must be in order.
func makeVersion(t testing.TB, number uint64, change func(*artifact.Manifest), nodes ...node) *version {
	t.Helper()
	v := &version{content: map[wire.Digest][]byte{}}
	v.m = &artifact.Manifest{Format: artifact.Format, Name: "app", Version: fmt.Sprint(number), Number: number, Kind: artifact.KindTree}
	for _, n := range nodes {
		e := artifact.Entry{Path: n.path, Type: artifact.TypeFile, Mode: n.mode}
		if path, target, ok := strings.Cut(n.path, " -> "); ok {
			e = artifact.Entry{Path: path, Type: artifact.TypeSymlink, Target: target}
		} else if dir, ok := strings.CutSuffix(n.path, "/"); ok {
			e = artifact.Entry{Path: dir, Type: artifact.TypeDir, Mode: 0o755}
		} else {
			e.Size, e.Digest, e.Chunks = uint64(len(n.content)), wire.DigestOf(n.content), v.cut(n.content)
		}
		v.m.Entries = append(v.m.Entries, e)
	}
	if change != nil {
		change(v.m)
	}
	var err error
	if v.b, v.d, err = v.m.Encode(); err != nil {
		t.Fatal(err)
	}
	return v
}

// A source is a Fetcher that counts, and that fails as it is told.
type source struct {
	content map[wire.Digest][]byte
	calls   int
	fetched []wire.Digest
	stopAt  int   // after so many chunks in all; 0: never
	stop    error // with which
	alter   func(i int, b []byte) []byte
}

func (v *version) source() *source { return &source{content: v.content} }

func (s *source) Fetch(ctx context.Context, chunks []artifact.Chunk, deliver func(int, []byte) error) error {
	s.calls++
	for i, c := range chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.stopAt > 0 && len(s.fetched) >= s.stopAt {
			return s.stop
		}
		b, ok := s.content[c.Digest]
		if !ok {
			return fmt.Errorf("chunk %s is nowhere", c.Digest.Short())
		}
		if s.alter != nil {
			b = s.alter(i, slices.Clone(b))
		}
		s.fetched = append(s.fetched, c.Digest)
		if err := deliver(i, b); err != nil {
			return err
		}
	}
	return nil
}

func openSlot(t testing.TB, dir string, o Options) *Slot {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func slotDir(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "slots", "app")
}

func (v *version) stage(t testing.TB, s *Slot) Progress {
	t.Helper()
	var last Progress
	if err := s.Stage(t.Context(), v.d, v.m, v.b, v.source(), func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	return last
}

func (v *version) install(t testing.TB, s *Slot) {
	t.Helper()
	v.stage(t, s)
	if err := s.Switch(v.d); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
