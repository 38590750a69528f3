package install

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A patch is one whose base the running release has.
type patch struct {
	*artifact.Patch
	base   string // where the base lies
	target int
	chosen bool
}

// collectFrom is the size from which a patched file is garbage that counts, in bytes.
const collectFrom = 1 << 20

// usable are the patches whose base the running release should have.
func (st *stage) usable() []patch {
	if st.base == nil || len(st.m.Patches) == 0 {
		return nil
	}
	at := make(map[wire.Digest]*artifact.Entry)
	for i := range st.base.Entries {
		if e := &st.base.Entries[i]; e.Type == artifact.TypeFile {
			at[e.Digest] = e
		}
	}
	var out []patch
	for i := range st.m.Patches {
		p := &st.m.Patches[i]
		if e := at[p.Base]; e != nil && e.Size == p.BaseSize {
			out = append(out, patch{Patch: p, base: st.baseDir + "/" + e.Path})
		}
	}
	return out
}

// choosePatches decides which files are made by patches. Chunks are compressed on their way and a patch is already, so one is worth its
// bytes when it has less than half of those that would be fetched.
func (st *stage) choosePatches(ctx context.Context, buf []byte) error {
	for i := range st.patches {
		p := &st.patches[i]
		p.target = st.files + i
		lack, by := st.lack(p.File), uint64(0)
		for n := range p.Chunks.Len() {
			if !st.have.has(st.to.targets[p.target].first + n) {
				by += uint64(p.Chunks.At(n).Size)
			}
		}
		if lack == 0 || 2*by > lack || 2*p.Size > artifact.MaxPatched {
			continue
		}
		ok, err := st.intact(ctx, p, buf)
		if err != nil {
			return err
		}
		if !ok {
			st.o.Log.Warn("the running release is not as it was installed; no patch is applied to it", "slot", st.Slot.dir, "file", p.base)
			continue
		}
		st.use(p, true)
	}
	return nil
}

// lack is how many bytes of a file are missing; 0 too for one that a patch is chosen for.
func (st *stage) lack(file wire.Digest) (n uint64) {
	for i := range st.files {
		t := &st.to.targets[i]
		if t.digest != file || t.skip {
			continue
		}
		for c := range t.chunks.Len() {
			if !st.have.has(t.first + c) {
				n += uint64(t.chunks.At(c).Size)
			}
		}
		return n
	}
	return 0
}

// use has a file come by its patch, or by its chunks.
func (st *stage) use(p *patch, yes bool) {
	p.chosen = yes
	st.to.targets[p.target].skip = !yes
	for i := range st.files {
		if t := &st.to.targets[i]; t.digest == p.File {
			t.skip = yes
		}
	}
}

func (st *stage) intact(ctx context.Context, p *patch, buf []byte) (bool, error) {
	f, err := st.fs.Open(p.base)
	if err != nil {
		return false, nil //nolint:nilerr // then the file is fetched
	}
	d, n, err := hashFile(ctx, f, buf)
	if err := errors.Join(err, f.Close(), ctx.Err()); err != nil {
		return false, ctx.Err()
	}
	return d == p.Base && n == p.BaseSize, nil
}

// applyPatches makes the files for which patches were fetched. It tells whether there is one that was not made: its chunks are missing then.
func (st *stage) applyPatches() (again bool, err error) {
	for i := range st.patches {
		p := &st.patches[i]
		if !p.chosen {
			continue
		}
		file, err := st.patched(p)
		if err != nil {
			st.o.Log.Warn("a patch does not make the file that it should; its chunks are fetched", "slot", st.Slot.dir, "file", p.File.Short(), "err", err)
			again = true
			st.use(p, false)
			continue
		}
		if err := st.cut(p, file); err != nil {
			return false, err
		}
		if len(file) > collectFrom { // what the next one needs is then what this one had
			runtime.GC()
		}
	}
	return again, nil
}

// patched is the file that a patch makes. Base and file are in memory at once, and the patch, which is smaller than half of the file.
func (st *stage) patched(p *patch) ([]byte, error) {
	if err := st.out.close(); err != nil {
		return nil, err
	}
	base, err := readSmall(st.fs, p.base, artifact.MaxPatched)
	if err != nil {
		return nil, err
	}
	b, err := readSmall(st.fs, st.to.targets[p.target].path, artifact.MaxPatched)
	if err != nil {
		return nil, err
	}
	file, err := artifact.OpenPatch(base, b, st.sizeOf(p.File))
	if err != nil {
		return nil, err
	}
	if wire.DigestOf(file) != p.File {
		return nil, fmt.Errorf("it makes another file: %w", artifact.ErrChunk)
	}
	return file, nil
}

func (st *stage) sizeOf(file wire.Digest) uint64 {
	for i := range st.files {
		if st.to.targets[i].digest == file {
			return st.to.targets[i].size
		}
	}
	return 0
}

// cut writes the chunks of a file to where they are missing.
func (st *stage) cut(p *patch, file []byte) error {
	var made uint64
	for i := range st.files {
		t := &st.to.targets[i]
		if t.digest != p.File {
			continue
		}
		for off, c := range t.chunks.All() {
			data := file[off:][:c.Size]
			if wire.DigestOf(data) != c.Digest {
				return fail(ReasonContent, "file %.200q is not put together of the chunks that the manifest names", t.path)
			}
			n, err := st.put(c.Digest, data)
			if err != nil {
				return err
			}
			made += n
		}
		t.skip = false
	}
	st.p.Saved += made - min(made, p.Size)
	st.tell(st.p)
	return nil
}
