package cache

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
	"github.com/holdfast-edge/holdfast/wire"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

func open(d *simdisk.Disk, quota int64) *Cache {
	return Open(Config{FS: d, Dir: "content", Quota: quota, Log: slog.New(slog.DiscardHandler)})
}

// piece is the content with a number, and its key: of each kind but manifests, and of several sizes.
func piece(i int) (Key, []byte) {
	size := []int{1, 100, 700, 2000}[i%4]
	b := bytes.Repeat(fmt.Appendf(nil, "%d ", i), size)[:size]
	if i%7 == 6 {
		return Key{Kind: wire.ContentPublishers, Number: uint64(i)}, b
	}
	return Key{Kind: []wire.ContentKind{wire.ContentChunk, wire.ContentChunk, wire.ContentRelease}[i%3], Digest: wire.DigestOf(fmt.Append(nil, i))}, b
}

// get is a whole content, block by block.
func get(c *Cache, k Key) ([]byte, error) {
	var out []byte
	for {
		b, err := c.Get(k, int64(len(out)))
		if err != nil {
			return nil, err
		}
		out = append(out, b.Data...)
		n, total := len(b.Data), b.Total
		b.Release()
		if n == 0 || int64(len(out)) == total {
			return out, nil
		}
	}
}

func put(t *testing.T, c *Cache, i int) {
	t.Helper()
	k, b := piece(i)
	if err := c.Put(k, wire.CodecRaw, b); err != nil {
		t.Fatal(err)
	}
}

// holds tells whether content is there, and fails the test when it is another one.
func holds(t *testing.T, c *Cache, i int) bool {
	t.Helper()
	k, want := piece(i)
	b, err := get(c, k)
	if err == nil && !bytes.Equal(b, want) {
		t.Fatalf("%v: %d bytes that nobody put", k, len(b))
	}
	if err != nil && !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	return err == nil
}

func TestCache(t *testing.T) {
	d := simdisk.New(1)
	c := open(d, 8<<20)
	for i := range 20 {
		if holds(t, c, i) {
			t.Fatalf("an empty cache has %d", i)
		}
		put(t, c, i)
	}
	put(t, c, 3)
	for range 2 {
		for i := range 20 {
			if !holds(t, c, i) {
				t.Errorf("%d is not there", i)
			}
		}
		if s := c.Status(); s.Files != 20 || s.Bytes != d.Used() || s.Evicted+s.Damaged+s.Failed != 0 {
			t.Errorf("status %+v, the disk has %d bytes", s, d.Used())
		}
		c = open(d, 8<<20) // a restart
	}
	k, _ := piece(0)
	if err := c.Put(k, wire.CodecRaw, nil); !errors.Is(err, ErrNotKept) {
		t.Errorf("nothing is kept: %v", err)
	}
	if err := c.Put(k, wire.CodecRaw, make([]byte, Block+1)); !errors.Is(err, ErrNotKept) {
		t.Errorf("too much is kept: %v", err)
	}
	if n := d.Handles(); n != 0 {
		t.Errorf("%d files are open", n)
	}
}

// A content of many blocks is handed out from wherever it is asked for, whatever the parts in which it was written.
func TestBlocks(t *testing.T) {
	r := newRand(7)
	for _, n := range []int{1, Block - 1, Block, Block + 1, 3*Block + 17} {
		d := simdisk.New(1)
		c := open(d, 8<<20)
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(r.Uint32())
		}
		k := Key{Kind: wire.ContentManifest, Digest: wire.DigestOf(want)}
		w, err := c.Create(k, wire.CodecRaw, int64(n))
		if err != nil {
			t.Fatal(err)
		}
		for rest := want; len(rest) > 0; {
			p := min(len(rest), 1+r.IntN(Block))
			if err := w.Write(rest[:p]); err != nil {
				t.Fatal(err)
			}
			rest = rest[p:]
		}
		if c.Has(k) {
			t.Error("there before it was committed")
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if got, err := get(c, k); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came back, %v", n, len(got), err)
		}
		if c.Status().Bytes != d.Used() {
			t.Errorf("counts %d bytes, the disk has %d", c.Status().Bytes, d.Used())
		}
		for range 20 {
			at := r.IntN(n + 2)
			b, err := c.Get(k, int64(at))
			if err != nil || !bytes.HasPrefix(want[min(at, n):], b.Data) || (len(b.Data) == 0) != (at >= n) || b.Total != int64(n) {
				t.Fatalf("from %d of %d: %v", at, n, err)
			}
			b.Release()
		}
	}
}

// What is written too short, too long, or given up, leaves nothing.
func TestUnfinished(t *testing.T) {
	d := simdisk.New(1)
	c := open(d, 8<<20)
	for name, f := range map[string]func(w *Writer) error{
		"short":   func(w *Writer) error { return errors.Join(w.Write(make([]byte, 9)), w.Commit()) },
		"long":    func(w *Writer) error { return w.Write(make([]byte, 11)) },
		"aborted": func(w *Writer) error { w.Abort(); return ErrNotKept },
	} {
		k, _ := piece(1)
		w, err := c.Create(k, wire.CodecRaw, 10)
		if err != nil {
			t.Fatal(err)
		}
		if err := f(w); !errors.Is(err, ErrNotKept) {
			t.Errorf("%s: %v", name, err)
		}
		if len(d.Files()) != 0 || c.Has(k) || d.Handles() != 0 {
			t.Errorf("%s: leaves %v", name, d.Files())
		}
	}
}

// The cache does as a plain list does that forgets its last one, over restarts.
func TestLeastRecentlyUsed(t *testing.T) {
	for seed := range uint64(5) {
		r, d := newRand(seed), simdisk.New(seed)
		const quota = 6000
		c := open(d, quota)
		var model []int // the one that was used last is the last
		bytes := func() (n int64) {
			for _, i := range model {
				_, b := piece(i)
				n += fileSize(int64(len(b)))
			}
			return n
		}
		for range 300 {
			i := r.IntN(30)
			k, b := piece(i)
			if k.Kind == wire.ContentPublishers {
				continue
			}
			at := slices.Index(model, i)
			if r.IntN(2) == 0 {
				if holds(t, c, i) != (at >= 0) {
					t.Fatalf("seed %d: %d is there: %v", seed, i, at < 0)
				}
				if at >= 0 {
					model = append(slices.Delete(model, at, at+1), i)
				}
				continue
			}
			put(t, c, i)
			for bytes()+fileSize(int64(len(b))) > quota {
				model = model[1:]
			}
			if at = slices.Index(model, i); at >= 0 {
				model = slices.Delete(model, at, at+1)
			}
			model = append(model, i)
			if s := c.Status(); s.Bytes != bytes() || s.Files != len(model) || s.Bytes > quota || s.Bytes != d.Used() {
				t.Fatalf("seed %d: %+v, want %d bytes in %d files; the disk has %d", seed, s, bytes(), len(model), d.Used())
			}
		}
	}
}

// Sets of publishers make no room.
func TestPublishersStay(t *testing.T) {
	c := open(simdisk.New(1), 6000)
	put(t, c, 6)
	for i := range 100 {
		if i%7 != 6 {
			put(t, c, i)
		}
	}
	if !holds(t, c, 6) || c.Status().Evicted == 0 {
		t.Errorf("status %+v", c.Status())
	}
}

// A smaller quota is kept to from the start on.
func TestSmallerQuota(t *testing.T) {
	d := simdisk.New(1)
	c := open(d, 1<<30)
	for i := range 40 {
		put(t, c, i)
	}
	if c = open(d, 6000); c.Status().Bytes > 6000 || d.Used() > 6000 {
		t.Errorf("status %+v", c.Status())
	}
}

// Each bit of a file is turned: it is noticed, and the file is gone.
func TestEveryBit(t *testing.T) {
	k, want := piece(1)
	d := simdisk.New(1)
	put(t, open(d, 1<<20), 1)
	name := d.Files()[0]
	whole := d.Content(name)
	for bit := range int64(8 * len(whole)) {
		d.Put(name, whole)
		c := open(d, 1<<20)
		d.Flip(name, bit)
		if _, err := get(c, k); !errors.Is(err, ErrMissing) || c.Has(k) || c.Status().Damaged != 1 || len(d.Files()) != 0 {
			t.Fatalf("bit %d of byte %d: %v, %+v", bit%8, bit/8, err, c.Status())
		}
		if err := c.Put(k, wire.CodecRaw, want); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that is cut, longer, or another one's, is noticed.
func TestWrongFile(t *testing.T) {
	k, _ := piece(1)
	d := simdisk.New(1)
	c := open(d, 1<<20)
	put(t, c, 1)
	name := d.Files()[0]
	whole := d.Content(name)
	put(t, c, 2)
	other := d.Content(slices.DeleteFunc(d.Files(), func(s string) bool { return s == name })[0])
	bad := [][]byte{append(slices.Clone(whole), 0), other}
	for n := range whole {
		bad = append(bad, whole[:n])
	}
	for _, b := range bad {
		d.Put(name, b)
		c := open(d, 1<<20)
		if _, err := get(c, k); !errors.Is(err, ErrMissing) || c.Status().Damaged != 1 {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
}

// The power goes at each operation, and the disk keeps different things; or only the process ends. What is there afterwards is what was
// put, and the cache goes on.
func TestPowerCutAtEveryOperation(t *testing.T) {
	script := func(d *simdisk.Disk) error {
		c := open(d, 6000)
		for i := range 12 {
			k, b := piece(i)
			if err := c.Put(k, wire.CodecRaw, b); errors.Is(err, simdisk.ErrPowerCut) {
				return err
			}
			if i == 6 {
				c = open(d, 6000)
			}
		}
		return nil
	}
	cuts, there := 0, 0
	for n := 0; ; n++ {
		d := simdisk.New(uint64(n))
		d.CutAfter(n)
		if err := script(d); err == nil && n > 60 {
			break
		}
		for seed := range uint64(6) {
			cuts++
			after := d.Crash(newRand(seed))
			if seed == 0 {
				after = d.Kill()
			}
			c := open(after, 6000)
			if s := c.Status(); s.Bytes > 6000 || s.Bytes != after.Used() || slices.ContainsFunc(after.Files(), func(f string) bool { return strings.HasSuffix(f, ".tmp") }) {
				t.Fatalf("cut %d: %+v, the disk has %d in %v", n, s, after.Used(), after.Files())
			}
			for i := range 12 {
				if holds(t, c, i) {
					there++
				}
			}
			for i := range 12 {
				put(t, c, i)
				if !holds(t, c, i) {
					t.Fatalf("cut %d: it does not go on", n)
				}
			}
		}
	}
	t.Logf("%d power cuts and kills; %d pieces were there afterwards", cuts, there)
	if there == 0 {
		t.Error("nothing ever outlives a cut")
	}
}

// A disk that is full takes nothing and costs a part of the cache; it is tried again after a while.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := simdisk.New(1)
		c := open(d, 1<<30)
		for i := range 40 {
			put(t, c, i)
		}
		before := c.Status()
		d.Limit(d.Used())
		k, b := piece(100)
		if err := c.Put(k, wire.CodecRaw, b); !errors.Is(err, ErrNotKept) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("on a full disk: %v", err)
		}
		s := c.Status()
		if s.Bytes > before.Bytes-before.Bytes/yield || s.Bytes < before.Bytes/2 || s.Failed == 0 || d.Used() != s.Bytes || c.Keeping() {
			t.Errorf("before %+v, then %+v", before, s)
		}
		if err := c.Put(k, wire.CodecRaw, b); !errors.Is(err, ErrNotKept) || errors.Is(err, syscall.ENOSPC) {
			t.Errorf("tried again at once: %v", err)
		}
		if !holds(t, c, 39) {
			t.Error("what was used last had to go")
		}
		time.Sleep(restTime)
		if put(t, c, 100); !c.Keeping() || !holds(t, c, 100) {
			t.Error("not kept after a while")
		}
	})
}

// Whatever single operation fails, content is there or it is not.
func TestFailingDisk(t *testing.T) {
	eio := syscall.EIO
	for _, kind := range []simdisk.Kind{
		simdisk.OpOpen, simdisk.OpRead, simdisk.OpReadDir, simdisk.OpCreate, simdisk.OpMkdir, simdisk.OpWrite, simdisk.OpRename, simdisk.OpRemove,
	} {
		for n := 1; n < 12; n++ {
			synctest.Test(t, func(t *testing.T) {
				d := simdisk.New(uint64(n))
				d.SetHook(simdisk.FailNth(kind, n, eio))
				c := open(d, 6000)
				for i := range 20 {
					k, b := piece(i)
					if err := c.Put(k, wire.CodecRaw, b); err != nil && !errors.Is(err, ErrNotKept) {
						t.Errorf("%s %d: %v", kind, n, err)
					}
					holds(t, c, i)
					time.Sleep(restTime)
				}
				for i := range 20 {
					if holds(t, c, i); d.Handles() != 0 {
						t.Fatalf("%s %d: %d files are open", kind, n, d.Handles())
					}
				}
			})
		}
	}
}

// A disk that does not even open keeps nothing.
func TestNoDisk(t *testing.T) {
	d := simdisk.New(1)
	d.SetHook(func(simdisk.Op) error { return syscall.EIO })
	c := open(d, 1<<20)
	k, b := piece(1)
	if err := c.Put(k, wire.CodecRaw, b); !errors.Is(err, ErrNotKept) || holds(t, c, 1) {
		t.Errorf("kept: %v", err)
	}
}

// Files that are none of the cache's are left alone.
func TestOtherFiles(t *testing.T) {
	d := simdisk.New(1)
	d.Put("content/ab/notes", []byte("x"))
	d.Put("content/ab/00.chunk", []byte("x"))
	d.Put("content/ab/"+strings.Repeat("00", 32)+".chunk", []byte("x")) // in the wrong directory
	d.Put("content/readme", []byte("x"))
	if c := open(d, 1<<20); c.Status().Files != 0 || len(d.Files()) != 4 {
		t.Errorf("%+v, left %v", c.Status(), d.Files())
	}
}

// FuzzFile: no file makes the cache hand out what was not put, or panic.
func FuzzFile(f *testing.F) {
	k, want := piece(1)
	d := simdisk.New(1)
	if err := open(d, 1<<20).Put(k, wire.CodecRaw, want); err != nil {
		f.Fatal(err)
	}
	name := d.Files()[0]
	whole := d.Content(name)
	f.Add(whole)
	f.Add(whole[:headSize])
	f.Add([]byte(fileMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := simdisk.New(1)
		d.Put(name, b)
		c := open(d, 1<<20)
		if got, err := get(c, k); err == nil && !bytes.Equal(b[headSize+sumSize:], got) {
			t.Fatalf("hands out %d bytes of a file of %d", len(got), len(b))
		}
	})
}
