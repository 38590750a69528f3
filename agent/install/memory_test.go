package install

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

const (
	maxStageMemory = 32 << 20 // bytes beyond those that the process has anyway
	memoryChunk    = 64 << 10 // as the builder cuts on average
	memoryChild    = "HOLDFAST_TEST_STAGE_MIB"
)

// Staging takes the same little memory however large the release is. HOLDFAST_STAGE_MIB sets the size; 64 in the daily run. It is measured
// in a process of its own, because other tests run in this one.
func TestStageMemory(t *testing.T) {
	t.Parallel()
	mib := os.Getenv("HOLDFAST_STAGE_MIB")
	if mib == "" {
		mib = "64"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStageMemoryChild$", "-test.v")
	cmd.Env = append(os.Environ(), memoryChild+"="+mib)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, said, ok := strings.Cut(line, "measured: "); ok {
			t.Log(strings.TrimSpace(said))
			return
		}
	}
	t.Errorf("nothing was measured:\n%s", out)
}

// TestStageMemoryChild is what TestStageMemory runs in a process of its own.
func TestStageMemoryChild(t *testing.T) {
	mib, err := strconv.Atoi(os.Getenv(memoryChild))
	if err != nil {
		return // it is the daily run's, which is not about this process
	}
	m, b, d, from := largeRelease(t, mib)
	s := openSlot(t, slotDir(t), Options{})
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // begins the peak anew
		t.Fatal(err)
	}
	idle, begun := status(t, "VmRSS"), time.Now()
	if err := s.Stage(t.Context(), d, m, b, from, nil); err != nil {
		t.Fatal(err)
	}
	peak := status(t, "VmHWM")
	t.Logf("measured: %d MiB in %v, idle %d KiB, peak %d KiB, which is %d KiB more", mib, time.Since(begun).Round(time.Millisecond), idle>>10, peak>>10, (peak-idle)>>10)
	if peak > idle+maxStageMemory {
		t.Errorf("the peak is %d bytes over idle, limit %d", peak-idle, maxStageMemory)
	}
}

// generated is content without end that a Fetcher makes as it is asked for it.
type generated struct{ buf [memoryChunk]byte }

func (g *generated) chunk(i int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	rand.NewChaCha8(seed).Read(g.buf[:]) //nolint:errcheck // it never fails
	return g.buf[:]
}

func (g *generated) Fetch(_ context.Context, chunks []artifact.Chunk, deliver func(int, []byte) error) error {
	for i := range chunks {
		if err := deliver(i, g.chunk(i)); err != nil {
			return err
		}
	}
	return nil
}

// largeRelease is a release of some MiB in 16 files.
func largeRelease(t *testing.T, mib int) (*artifact.Manifest, []byte, wire.Digest, Fetcher) {
	t.Helper()
	m := &artifact.Manifest{Format: artifact.Format, Name: "large", Version: "1", Number: 1, Kind: artifact.KindTree}
	g, n := new(generated), mib<<20/memoryChunk
	var (
		e artifact.Entry
		h hash.Hash
	)
	for i := range n {
		if i%(n/16) == 0 {
			e, h = artifact.Entry{Path: fmt.Sprintf("file%02d", i/(n/16)), Type: artifact.TypeFile, Mode: 0o644}, sha256.New()
		}
		b := g.chunk(i)
		h.Write(b)
		e.Chunks.Add(artifact.Chunk{Digest: wire.DigestOf(b), Size: memoryChunk})
		if e.Size += memoryChunk; (i+1)%(n/16) == 0 {
			e.Digest = wire.Digest(h.Sum(nil))
			m.Entries = append(m.Entries, e)
		}
	}
	b, d, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return m, b, d, g
}

// status is a size of this process as the kernel tells it, in bytes.
func status(t *testing.T, key string) uint64 {
	t.Helper()
	for line := range strings.Lines(read(t, "/proc/self/status")) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("/proc/self/status has no %s", key)
	return 0
}
