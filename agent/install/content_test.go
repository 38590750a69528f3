package install

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

var errWAN = errors.New("the WAN is cut")

// A download that is interrupted anywhere goes on, also after a restart of the agent, and nothing is fetched twice.
func TestResumeFetchesNothingTwice(t *testing.T) {
	t.Parallel()
	v1, _ := twoVersions(t)
	dir := slotDir(t)
	src := v1.source()
	src.stop = errWAN
	for try := range 8 {
		s := openSlot(t, dir, Options{Wrap: fast})
		src.stopAt = 4 * (try + 1)
		var last Progress
		err := s.Stage(t.Context(), v1.d, v1.m, v1.b, src, func(p Progress) { last = p })
		s.Close()
		if last.Staged+last.Fetched+last.Saved > last.Total {
			t.Errorf("try %d: %+v", try, last)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errWAN) || ReasonOf(err) != ReasonContent {
			t.Fatalf("try %d: %v", try, err)
		}
	}
	if n := len(src.fetched); n != len(v1.content) || src.calls != 6 {
		t.Errorf("%d chunks fetched in %d calls, there are %d", n, src.calls, len(v1.content))
	}
	slices.SortFunc(src.fetched, wire.Digest.Compare)
	if n := len(slices.Compact(src.fetched)); n != len(v1.content) {
		t.Errorf("%d different chunks fetched, there are %d", n, len(v1.content))
	}
}

// Content that is in a release more than once is fetched once, in one call, in the order of the files.
func TestEachChunkOnce(t *testing.T) {
	t.Parallel()
	a, b := noise(1, 3*chunkSize), noise(2, 2*chunkSize)
	v := makeVersion(t, 1, nil, node{"a", a, 0o644}, node{"b", slices.Concat(b, a), 0o644}, node{"c", slices.Concat(a, a, b), 0o644})
	src := v.source()
	var last Progress
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	if err := s.Stage(t.Context(), v.d, v.m, v.b, src, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	var want []wire.Digest
	for _, c := range slices.Collect(slices.Chunk(slices.Concat(a, b), chunkSize)) {
		want = append(want, wire.DigestOf(c))
	}
	if !slices.Equal(src.fetched, want) || src.calls != 1 {
		t.Errorf("fetched %d chunks in %d calls, want %d in order in one", len(src.fetched), src.calls, len(want))
	}
	if last.Fetched != 5*chunkSize || last.Saved != last.Total-last.Fetched {
		t.Errorf("progress %+v", last)
	}
}

// A bit that flips in what was staged, or in what runs, costs its chunk, which is fetched.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"staged", "running"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			v1, v2 := twoVersions(t)
			dir := slotDir(t)
			var log bytes.Buffer
			s := openSlot(t, dir, Options{Wrap: fast, Log: textLog(&log)})
			v1.install(t, s)
			want := []wire.Digest{v2.m.Entries[1].Chunks.At(5).Digest, v2.m.Entries[1].Chunks.At(9).Digest}
			src := v2.source()
			name := filepath.Join(dir, "current", "bin", "app")
			if where == "staged" {
				src.stop, src.stopAt = errWAN, 1
				if err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, nil); !errors.Is(err, errWAN) {
					t.Fatal(err)
				}
				name = filepath.Join(dir, staging(v2.d), "tree", "bin", "app")
				src.stopAt = 0
				if err := s.Switch(wire.Digest{}); err != nil { // nothing to take it from
					t.Fatal(err)
				}
			}
			flip(t, name, 9*chunkSize+5)
			if err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, nil); err != nil {
				t.Fatal(err)
			}
			if len(src.fetched) < 2 || !slices.Equal(src.fetched[:2], want) {
				t.Errorf("fetched %v, want %v first", src.fetched, want)
			}
			if where == "running" && !strings.Contains(log.String(), "not as it was installed") {
				t.Errorf("the log has no word of it: %s", log.String())
			}
			if err := s.Verify(t.Context(), v2.d); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a fetcher brings is verified again, and what is wrong is kept nowhere.
func TestWrongContent(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]func(i int, b []byte) []byte{
		"flipped bit": func(_ int, b []byte) []byte { b[0] ^= 1; return b },
		"truncated":   func(_ int, b []byte) []byte { return b[:len(b)-1] },
		"extra byte":  func(_ int, b []byte) []byte { return append(b, 0) },
		"empty":       func(int, []byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v1, v2 := twoVersions(t)
			s := openSlot(t, slotDir(t), Options{Wrap: fast})
			v1.install(t, s)
			src := v2.source()
			src.alter = alter
			if err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, nil); ReasonOf(err) != ReasonContent || !strings.Contains(err.Error(), "chunk 1 of") {
				t.Errorf("staged: %v", err)
			}
			if len(src.fetched) != 1 {
				t.Errorf("%d chunks were taken", len(src.fetched))
			}
			if d, err := s.Current(); err != nil || d != v1.d || s.Verify(t.Context(), v1.d) != nil {
				t.Errorf("%s runs, %v", d.Short(), err)
			}
			if err := s.Switch(v2.d); ReasonOf(err) != ReasonDrift {
				t.Errorf("switched to what is not there: %v", err)
			}
			v2.install(t, s)
		})
	}
}

// A manifest whose files are not made of its chunks is refused once all of them are there.
func TestFileIsNotItsChunks(t *testing.T) {
	t.Parallel()
	v := makeVersion(t, 1, func(m *artifact.Manifest) { m.Entries[0].Digest[0] ^= 1 }, file("a", "content"))
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	err := s.Stage(t.Context(), v.d, v.m, v.b, v.source(), nil)
	if ReasonOf(err) != ReasonContent || !strings.Contains(err.Error(), `"a"`) {
		t.Error(err)
	}
}

// patchChunk is the size of the chunks of patches, in bytes.
const patchChunk = 50

// patched makes a second version whose file comes by a patch.
func patched(t *testing.T, base, file []byte, alter func(*artifact.Patch)) (v1, v2 *version, size int) {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(0, base), zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	p := enc.EncodeAll(file, nil)
	v1 = makeVersion(t, 1, nil, node{"app", base, 0o755})
	var chunks artifact.Chunks
	content := map[wire.Digest][]byte{}
	for c := range slices.Chunk(p, patchChunk) {
		content[wire.DigestOf(c)] = c
		chunks.Add(artifact.Chunk{Digest: wire.DigestOf(c), Size: uint32(len(c))})
	}
	v2 = makeVersion(t, 2, func(m *artifact.Manifest) {
		patch := artifact.Patch{Base: wire.DigestOf(base), BaseSize: uint64(len(base)), File: wire.DigestOf(file), Size: uint64(len(p)), Chunks: chunks}
		if alter != nil {
			alter(&patch)
		}
		m.Patches = append(m.Patches, patch)
	}, node{"app", file, 0o755})
	maps.Copy(v2.content, content)
	return v1, v2, len(p)
}

func executable() (base, file []byte) {
	base = noise(1, 100*chunkSize)
	for i := 500; i < 100*chunkSize; i += chunkSize { // every chunk differs
		file = append(file, base[len(file):i]...)
		file = append(file, 'x')
	}
	return base, append(file, base[len(file):]...)
}

func TestPatch(t *testing.T) {
	t.Parallel()
	base, file := executable()
	v1, v2, size := patched(t, base, file, nil)
	dir := slotDir(t)
	s := openSlot(t, dir, Options{Wrap: fast})
	v1.install(t, s)
	src := v2.source()
	src.stopAt, src.stop = 1, errWAN
	if err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, nil); !errors.Is(err, errWAN) {
		t.Fatal(err)
	}
	src.stopAt = 0
	var last Progress
	if err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if want := (size + patchChunk - 1) / patchChunk; len(src.fetched) != want || want < 3 {
		t.Errorf("%d chunks fetched, the patch has %d", len(src.fetched), want)
	}
	if last.Fetched != uint64(size-patchChunk) || last.Saved != last.Total-uint64(size) {
		t.Errorf("progress %+v, patch of %d bytes", last, size)
	}
	if err := s.Switch(v2.d); err != nil || read(t, filepath.Join(dir, "current", "app")) != string(file) {
		t.Errorf("the file is another, %v", err)
	}
}

// When the base was changed, is not there, or the patch is no good, the file comes by its chunks.
func TestPatchIsNoUse(t *testing.T) {
	t.Parallel()
	base, file := executable()
	for name, tc := range map[string]struct {
		alter  func(*artifact.Patch)
		before func(t *testing.T, s *Slot, dir string)
		calls  int
	}{
		"base changed": {before: func(t *testing.T, _ *Slot, dir string) { flip(t, filepath.Join(dir, "current", "app"), 5) }, calls: 1},
		"base gone": {before: func(t *testing.T, _ *Slot, dir string) {
			if err := os.Remove(filepath.Join(dir, "current", "app")); err != nil {
				t.Fatal(err)
			}
		}, calls: 1},
		"nothing runs": {before: func(t *testing.T, s *Slot, _ string) {
			if err := s.Switch(wire.Digest{}); err != nil {
				t.Fatal(err)
			}
		}, calls: 1},
		"no patch in it": {alter: func(p *artifact.Patch) {
			p.Chunks = nil
			p.Chunks.Add(artifact.Chunk{Digest: wire.DigestOf(file[:chunkSize]), Size: chunkSize})
			p.Size = chunkSize
		}, calls: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v1, v2, _ := patched(t, base, file, tc.alter)
			dir := slotDir(t)
			s := openSlot(t, dir, Options{Wrap: fast})
			v1.install(t, s)
			if tc.before != nil {
				tc.before(t, s, dir)
			}
			src := v2.source()
			if err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, nil); err != nil {
				t.Fatal(err)
			}
			if src.calls != tc.calls || len(src.fetched) < v2.m.Entries[0].Chunks.Len() {
				t.Errorf("%d chunks in %d calls", len(src.fetched), src.calls)
			}
			if err := s.Verify(t.Context(), v2.d); err != nil {
				t.Error(err)
			}
		})
	}
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
