package content

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func TestPutGet(t *testing.T) {
	d := simdisk.New(1)
	s := openStore(t, d, 0)
	small := squeezed(t, make([]byte, wire.MaxChunk))
	list := append(chunks(0, 20), small, chunk(3))
	if err := s.Put(t.Context(), verified(t, list...)); err != nil {
		t.Fatal(err)
	}
	if missing := s.Touch([]wire.Digest{chunk(1).Digest, chunk(77).Digest, small.Digest}); len(missing) != 1 || missing[0] != 1 {
		t.Errorf("missing %v", missing)
	}
	want := s.Stats()
	if want.Chunks != 21 || want.Bytes != d.Used() {
		t.Errorf("%+v, on the disk %d bytes", want, d.Used())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, d.Crash(rand.New(rand.NewPCG(1, 1))), 0)
	if got := s.Stats(); got != want {
		t.Errorf("%+v after a power cut, want %+v", got, want)
	}
	for _, c := range list {
		holds(t, s, c)
	}
	if _, err := s.Get(chunk(77).Digest); !errors.Is(err, ErrMissing) {
		t.Errorf("a chunk that nobody put: %v", err)
	}
}

// Nothing gets in under a digest that is not its own, and nothing that decodes to more than a chunk.
func TestVerify(t *testing.T) {
	good, other := chunk(1), chunk(2)
	big := squeezed(t, make([]byte, 64<<20))
	for name, c := range map[string]struct {
		d      wire.Digest
		stored []byte
	}{
		"another digest": {other.Digest, good.Stored},
		"no data":        {wire.DigestOf(nil), []byte{0}},
		"nothing":        {good.Digest, nil},
		"codec":          {good.Digest, append([]byte{9}, good.Stored[1:]...)},
		"cut":            {good.Digest, good.Stored[:len(good.Stored)-1]},
		"longer":         {good.Digest, append(slices.Clip(good.Stored), 0)},
		"bomb":           {big.Digest, big.Stored},
	} {
		list := chunks(3, 4)
		list[0].Digest, list[0].Stored = c.d, c.stored
		if _, err := Verify(append(chunks(5, 6), list...)); !errors.Is(err, artifact.ErrChunk) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever operation of the disk fails, what Put acknowledged is there, nothing that is there is wrong, and the store goes on.
func TestFaults(t *testing.T) {
	for nth := 1; ; nth++ {
		d := simdisk.New(uint64(nth))
		s := openStore(t, d, 0)
		if err := s.Put(t.Context(), verified(t, chunks(0, 3)...)); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		left, hit := nth, false
		d.SetHook(func(op simdisk.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				hit = true
				return syscall.ENOSPC
			}
			return nil
		})
		err := s.Put(t.Context(), verified(t, chunks(2, 6)...))
		d.SetHook(nil)
		if err != nil && !hit {
			t.Fatalf("operation %d: %v", nth, err)
		}
		put := 3
		if err == nil {
			put = 6
		}
		if err := s.Put(t.Context(), verified(t, chunks(6, 7)...)); err != nil {
			t.Fatalf("after operation %d failed: %v", nth, err)
		}
		for _, c := range append(chunks(0, put), chunk(6)) {
			holds(t, s, c)
		}
		if d.Handles() != 0 {
			t.Fatalf("operation %d: %d files are open", nth, d.Handles())
		}
		if !hit {
			return
		}
	}
}

// Wherever the power is cut, what Put acknowledged is there, and nothing that is there is wrong.
func TestPowerCut(t *testing.T) {
	for cut := 0; ; cut++ {
		d := simdisk.New(uint64(cut))
		d.CutAfter(cut)
		acked := 0
		s, err := Open("content", Options{FS: d})
		for err == nil && acked < 3 {
			if err = s.Put(t.Context(), verified(t, chunks(3*acked, 3*acked+3)...)); err == nil {
				acked++
			}
		}
		for seed := range uint64(4) {
			again := openStore(t, d.Crash(rand.New(rand.NewPCG(seed, uint64(cut)))), 0)
			for n, c := range chunks(0, 9) {
				if n < 3*acked || again.Has(c.Digest) {
					holds(t, again, c)
				}
			}
		}
		if acked == 3 {
			t.Logf("%d operations", cut)
			return
		}
	}
}

// A process that is killed leaves nothing behind that the next one trusts and cannot read.
func TestKill(t *testing.T) {
	for cut := 0; ; cut++ {
		d := simdisk.New(uint64(cut))
		s := openStore(t, d, 0)
		d.CutAfter(cut)
		err := s.Put(t.Context(), verified(t, chunks(0, 3)...))
		next := d.Kill()
		s = openStore(t, next, 0)
		for _, c := range chunks(0, 3) {
			if s.Has(c.Digest) {
				holds(t, s, c)
			} else if err == nil {
				t.Fatal("an acknowledged chunk is gone")
			}
		}
		for _, f := range next.Files() {
			if strings.HasSuffix(f, disk.TmpSuffix) {
				t.Errorf("%s stayed behind", f)
			}
		}
		if err == nil {
			return
		}
	}
}

// Every flipped bit, and every other length, is noticed; the file is moved aside; the chunk can be put again.
func TestDamage(t *testing.T) {
	c := raw([]byte("some content"))
	d := simdisk.New(1)
	s := openStore(t, d, 0)
	path := s.path(c.Digest)
	good := encodeFrame(c.Stored)
	try := func(name string, b []byte) {
		t.Helper()
		if err := s.Put(t.Context(), verified(t, c)); err != nil {
			t.Fatal(err)
		}
		holds(t, s, c)
		d.Put(path, b)
		_, err := s.Get(c.Digest)
		var damage *DamageError
		if !errors.As(err, &damage) || !errors.Is(err, ErrDamaged) || damage.File != path {
			t.Fatalf("%s: %v", name, err)
		}
		select {
		case <-s.Damage():
		default:
			t.Errorf("%s: nobody is told", name)
		}
		if s.Has(c.Digest) || string(d.Content(path+asideSuffix)) != string(b) || d.Content(path) != nil {
			t.Errorf("%s: it was not moved aside", name)
		}
		if got := s.Stats().Bytes; got != int64(len(good)) { // the size that was known
			t.Errorf("%s: %d bytes are used, want %d", name, got, len(good))
		}
	}
	for bit := range 8 * len(good) {
		b := append([]byte(nil), good...)
		b[bit/8] ^= 1 << (bit % 8)
		try("flip", b)
	}
	for n := range good {
		try("cut", good[:n])
	}
	try("longer", append(slices.Clip(good), 0))
	if got := s.Stats().Damaged; got != uint64(9*len(good)+1) {
		t.Errorf("%d were found to be damaged", got)
	}
	if err := s.Put(t.Context(), verified(t, c)); err != nil {
		t.Fatal(err)
	}
	d.SetHook(simdisk.FailNth(simdisk.OpRead, 1, syscall.EIO))
	if _, err := s.Get(c.Digest); !errors.Is(err, ErrDamaged) {
		t.Errorf("a sector that does not read: %v", err)
	}
	if err := s.Put(t.Context(), verified(t, c)); err != nil {
		t.Fatal(err)
	}
	d.SetHook(simdisk.FailNth(simdisk.OpOpen, 1, syscall.EMFILE))
	if _, err := s.Get(c.Digest); !errors.Is(err, syscall.EMFILE) || !s.Has(c.Digest) {
		t.Errorf("too many open files is no damage: %v", err)
	}
	if err := errors.Join(d.Remove(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(c.Digest); !errors.Is(err, ErrDamaged) || s.Has(c.Digest) {
		t.Errorf("a file that is gone: %v", err)
	}
}

func TestQuota(t *testing.T) {
	list := chunks(0, 10)
	var size int64
	for i := range list {
		size += int64(len(encodeFrame(list[i].Stored)))
	}
	s := openStore(t, simdisk.New(1), size)
	if err := s.Put(t.Context(), verified(t, append(list, chunk(10))...)); !errors.Is(err, ErrQuota) {
		t.Errorf("beyond the quota: %v", err)
	}
	if got := s.Stats(); got.Chunks != 0 || got.Bytes != 0 {
		t.Errorf("a refused pack left %+v", got)
	}
	if err := s.Put(t.Context(), verified(t, list...)); err != nil {
		t.Errorf("up to the quota: %v", err)
	}
	if err := s.Put(t.Context(), verified(t, list...)); err != nil {
		t.Errorf("what is there already: %v", err)
	}
	if err := s.Put(t.Context(), verified(t, chunk(10))); !errors.Is(err, ErrQuota) {
		t.Errorf("one more: %v", err)
	}
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New(1)
		s := openStore(t, d, 0)
		if err := s.Put(t.Context(), verified(t, chunks(0, 4)...)); err != nil {
			t.Fatal(err)
		}
		d.Flip(s.path(chunk(0).Digest), 70)
		if _, err := s.Get(chunk(0).Digest); !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		before := time.Now().Add(-time.Hour)
		s.Touch([]wire.Digest{chunk(1).Digest})
		stale := s.Stale(before)
		if len(stale) != 2 {
			t.Fatalf("%d chunks are stale", len(stale))
		}
		if err := s.Put(t.Context(), verified(t, chunk(2))); err != nil { // meanwhile
			t.Fatal(err)
		}
		if n, bytes, err := s.Sweep(stale, before); n != 1 || bytes == 0 || err != nil {
			t.Errorf("swept %d chunks, %d bytes: %v", n, bytes, err)
		}
		holds(t, s, chunk(1))
		holds(t, s, chunk(2))
		if _, err := s.Get(chunk(3).Digest); !errors.Is(err, ErrMissing) {
			t.Errorf("what was stale: %v", err)
		}
		if got := s.Stats(); got.Chunks != 2 || got.Bytes != d.Used() {
			t.Errorf("%+v, on the disk %d bytes", got, d.Used())
		}
	})
}

// Puts, reads and sweeps of the same chunks at the same time: what was put last is there, and nothing that is there is wrong.
func TestSweepRace(t *testing.T) {
	s, err := Open(t.TempDir()+"/content", Options{FS: unsynced{}})
	if err != nil {
		t.Fatal(err)
	}
	all := verified(t, chunks(0, 8)...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, _, err := s.Sweep(s.Stale(time.Now()), time.Now()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, c := range chunks(0, 8) {
				if _, err := s.Get(c.Digest); err != nil && !errors.Is(err, ErrMissing) {
					t.Error(err)
				}
			}
		}
	})
	for range 300 {
		begun := time.Now()
		if err := s.Put(ctx, all); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Sweep(s.Stale(begun), begun); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	if err := s.Put(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks(0, 8) {
		holds(t, s, c)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// unsynced is the operating system's file system without the syncs.
type unsynced struct{ disk.OS }

func (unsynced) SyncDir(string) error { return nil }

func (unsynced) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := disk.OS{}.OpenFile(name, flag, perm)
	return quick{f}, err
}

type quick struct{ disk.File }

func (quick) Sync() error { return nil }

func TestOpenLocked(t *testing.T) {
	d := simdisk.New(1)
	openStore(t, d, 0)
	if _, err := Open("content", Options{FS: d}); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// Foreign names are left alone and are no chunks.
func TestForeign(t *testing.T) {
	d := simdisk.New(1)
	c := chunk(1)
	hex := c.Digest.String()
	for _, name := range []string{"content/readme", "content/" + hex[:2] + "/x", "content/zz/" + hex, "content/" + hex[:2] + "/" + strings.ToUpper(hex)} {
		d.Put(name, encodeFrame(c.Stored))
	}
	s := openStore(t, d, 0)
	if got := s.Stats(); got.Chunks != 0 || len(d.Files()) != 4 {
		t.Errorf("%+v, files %v", got, d.Files())
	}
}
