package install

import (
	"context"
	"errors"
	"io/fs"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// Progress is how far a Stage is, in bytes.
type Progress struct {
	Total   uint64 // of the release's files
	Staged  uint64 // of them that an earlier Stage had left, and that verified
	Fetched uint64 // that the Fetcher delivered, before compression; patches too
	Saved   uint64 // of the files that came from the device itself: what runs, what is there already, what a patch made
}

// Stage makes a release: it ends with the release under its name, complete, verified and durable, or with an error and nothing under it. It may
// be repeated after any error and any crash, and then fetches nothing that the disk has. progress, which may be nil, is called often. When ctx
// ends, its error is returned as it is.
//
// A release that is there already is verified; one that does not verify is made anew beside it and takes its place at once. When the disk
// is full, what was staged is kept only if the reserve is free without it: what runs needs the room more than the next try does.
func (s *Slot) Stage(ctx context.Context, d wire.Digest, m *artifact.Manifest, manifestBytes []byte, f Fetcher, progress func(Progress)) error {
	if wire.DigestOf(manifestBytes) != d {
		return fail(ReasonManifest, "these bytes are not the manifest of artifact %s", d.Short())
	}
	if err := admit(m); err != nil {
		return err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	switch err := s.Verify(ctx, d); {
	case err == nil:
		progress(Progress{Total: m.Size(), Staged: m.Size()})
		return onDisk(s.sweep(d), "staging of %s", d.Short())
	case ctx.Err() != nil || ReasonOf(err) != ReasonDrift:
		return err
	}
	st := &stage{Slot: s, d: d, m: m, dir: staging(d), fetcher: f, tell: progress}
	err := onDisk(st.run(ctx, manifestBytes), "stage %s", d.Short())
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if ReasonOf(err) == ReasonNoSpace {
		err = errors.Join(err, s.relieve(d))
	}
	return err
}

// admit holds a manifest against the rules of its format, and of this device.
func admit(m *artifact.Manifest) error {
	if err := m.Check(); err != nil {
		return &Error{ReasonManifest, err}
	}
	if _, err := installerOf(m.Kind); err != nil {
		return err
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		if need := readable(e.Type); e.Mode&need != need {
			return fail(ReasonManifest, "entry %.80q: mode %#o keeps its owner from reading it, so nothing could tell whether it is whole", e.Path, e.Mode)
		}
	}
	return nil
}

// readable is the mode that the owner of an entry needs to read it.
func readable(t artifact.EntryType) uint32 {
	switch t {
	case artifact.TypeFile:
		return 0o400
	case artifact.TypeDir:
		return 0o500
	case artifact.TypeSymlink:
	}
	return 0
}

// sweep removes what was staged of a release.
func (s *Slot) sweep(d wire.Digest) error {
	there, err := exists(s.fs, staging(d))
	if err != nil || !there {
		return err
	}
	if err := s.discard(staging(d)); err != nil {
		return err
	}
	return s.fs.SyncDir(stagingDir)
}

// relieve removes what was staged of a release, if the disk has less room than the reserve.
func (s *Slot) relieve(d wire.Digest) error {
	n, err := s.o.Free(s.dir)
	if err != nil || n >= s.o.Reserve {
		return err
	}
	return s.sweep(d)
}

// A stage is one run of Stage.
type stage struct {
	*Slot
	d       wire.Digest
	m       *artifact.Manifest
	dir     string // staging/D
	fetcher Fetcher
	tell    func(Progress)
	p       Progress

	base    *artifact.Manifest // of the release that runs; nil: none, or not readable
	baseDir string
	files   int // how many of the targets are files of the release; behind them are patches
	to      *places
	have    bits // chunks that lie at their place and verified
	patches []patch
	out     writer
	in      reader
}

func (st *stage) run(ctx context.Context, manifestBytes []byte) error {
	if err := st.plan(); err != nil {
		return err
	}
	st.out = writer{fs: st.fs, room: st.room}
	st.in = reader{fs: st.fs}
	err := closing(st.fill(ctx), &st.out, &st.in)
	if err != nil {
		return err
	}
	if err := st.seal(ctx); err != nil {
		return err
	}
	return st.publish(manifestBytes)
}

func (st *stage) tree() string { return st.dir + "/tree" }

// plan makes the directories and says which files are made.
func (st *stage) plan() error {
	for _, d := range []string{st.dir, st.tree(), st.dir + "/patches"} {
		if err := mkdir(st.fs, d); err != nil {
			return err
		}
	}
	for i := range st.m.Entries {
		e := &st.m.Entries[i]
		if e.Type != artifact.TypeDir {
			continue
		}
		if err := st.clear(st.tree()+"/"+e.Path, fs.ModeDir); err != nil {
			return err
		}
		if err := mkdir(st.fs, st.tree()+"/"+e.Path); err != nil {
			return err
		}
	}
	st.learnBase()
	targets := filesOf(st.m, st.tree())
	st.files = len(targets)
	st.patches = st.usable()
	for _, p := range st.patches {
		targets = append(targets, target{path: st.dir + "/patches/" + p.File.String(), chunks: p.Chunks, size: p.Size, skip: true})
	}
	st.to = newPlaces(targets)
	st.have = newBits(len(st.to.sorted))
	st.p.Total = st.m.Size()
	return nil
}

// clear removes what lies where something of the given type belongs and is of another.
func (st *stage) clear(name string, want fs.FileMode) error {
	info, err := st.fs.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() == want:
		return nil
	}
	return removeAll(st.fs, name)
}

// fill sees to it that every chunk is at its place.
func (st *stage) fill(ctx context.Context) error {
	buf := make([]byte, wire.MaxChunk)
	for i := range st.to.targets {
		if err := st.scan(ctx, i, buf); err != nil {
			return err
		}
	}
	st.tell(st.p)
	if err := st.Room(st.d, st.m); err != nil {
		return err
	}
	if err := st.seed(ctx, buf); err != nil {
		return err
	}
	if err := st.choosePatches(ctx, buf); err != nil {
		return err
	}
	if err := st.fetch(ctx); err != nil {
		return err
	}
	again, err := st.applyPatches()
	if err != nil || !again {
		return err
	}
	return st.fetch(ctx)
}

// scan looks what an earlier run left of a target, chunk by chunk, and makes the file.
func (st *stage) scan(ctx context.Context, i int, buf []byte) error {
	t := &st.to.targets[i]
	if err := st.clear(t.path, 0); err != nil {
		return err
	}
	info, err := st.fs.Lstat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		if t.skip {
			return nil
		}
		f, err := st.fs.Create(t.path)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err != nil {
		return err
	}
	if info.Mode().Perm() != fileMode {
		if err := st.fs.Chmod(t.path, fileMode); err != nil {
			return err
		}
	}
	if info.Size() > int64(t.size) { //nolint:gosec // G115: at most artifact.MaxSize
		if err := st.truncate(t); err != nil {
			return err
		}
	}
	n := 0
	for off, c := range t.chunks.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if off+uint64(c.Size) > uint64(info.Size()) { //nolint:gosec // G115: no size is negative
			break
		}
		if err := st.in.read(t.path, buf[:c.Size], off); err != nil {
			return st.anew(i, err)
		}
		if wire.DigestOf(buf[:c.Size]) == c.Digest {
			st.have.set(t.first + n)
			if i < st.files {
				st.p.Staged += uint64(c.Size)
			}
		}
		n++
	}
	return st.in.close()
}

// anew begins a target again of which the disk does not give back what it took: written elsewhere it may.
func (st *stage) anew(i int, why error) error {
	t := &st.to.targets[i]
	st.o.Log.Warn("a staged file does not read and is made anew", "slot", st.Slot.dir, "file", t.path, "err", why)
	for n := range t.chunks.Len() {
		if c := t.chunks.At(n); st.have.has(t.first+n) && i < st.files {
			st.p.Staged -= uint64(c.Size)
		}
		st.have.clear(t.first + n)
	}
	if err := errors.Join(st.in.close(), removeAll(st.fs, t.path)); err != nil || t.skip {
		return err
	}
	f, err := st.fs.Create(t.path)
	if err != nil {
		return err
	}
	return f.Close()
}

func (st *stage) truncate(t *target) error {
	f, err := st.fs.Create(t.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(t.size)), f.Close()) //nolint:gosec // G115: at most artifact.MaxSize
}

// put writes a chunk to all places that lack it, and returns how many bytes of files that are.
func (st *stage) put(d wire.Digest, data []byte) (n uint64, err error) {
	for _, x := range st.to.of(d) {
		if int(st.to.at(x).Size) != len(data) || st.have.has(st.to.number(x)) {
			continue
		}
		t := &st.to.targets[x.target]
		if t.skip && int(x.target) >= st.files { // a patch that nobody wants
			continue
		}
		if err := st.out.write(t.path, data, x.off); err != nil {
			return n, err
		}
		st.have.set(st.to.number(x))
		if int(x.target) < st.files {
			n += uint64(len(data))
		}
	}
	return n, nil
}

// fetch brings what is missing, each chunk once, in the order of the files.
func (st *stage) fetch(ctx context.Context) error {
	list := st.missing()
	if len(list) == 0 {
		return nil
	}
	err := st.fetcher.Fetch(ctx, list, func(i int, data []byte) error {
		if i < 0 || i >= len(list) || len(data) != int(list[i].Size) || wire.DigestOf(data) != list[i].Digest {
			return fail(ReasonContent, "chunk %d of %d is not what the manifest names", i+1, len(list))
		}
		n, err := st.put(list[i].Digest, data)
		if err != nil {
			return onDisk(err, "chunk %s", list[i].Digest.Short())
		}
		st.p.Fetched += uint64(len(data))
		if extra := uint64(len(data)); n > extra {
			st.p.Saved += n - extra
		}
		st.tell(st.p)
		return nil
	})
	if e := (*Error)(nil); err != nil && !errors.As(err, &e) {
		return &Error{ReasonContent, err}
	}
	if err == nil && len(st.missing()) > 0 {
		return fail(ReasonContent, "the fetcher did not bring all of %d chunks", len(list))
	}
	return err
}

// missing are the chunks that are to be fetched.
func (st *stage) missing() []artifact.Chunk {
	var list []artifact.Chunk
	listed := newBits(len(st.to.sorted))
	add := func(t *target) {
		for i := range t.chunks.Len() {
			if n := t.first + i; t.skip || st.have.has(n) || listed.has(n) {
				continue
			}
			c := t.chunks.At(i)
			for _, x := range st.to.of(c.Digest) {
				if st.to.at(x).Size == c.Size {
					listed.set(st.to.number(x))
				}
			}
			list = append(list, c)
		}
	}
	for i := st.files; i < len(st.to.targets); i++ { // patches first: then they can be applied while there is time to fetch anew
		add(&st.to.targets[i])
	}
	for i := range st.files {
		add(&st.to.targets[i])
	}
	return list
}

// publish gives a sealed release its name.
func (st *stage) publish(manifestBytes []byte) error {
	if err := replace(st.fs, releasesDir, st.d.String()+manifestSuffix, manifestBytes); err != nil {
		return err
	}
	damaged, err := exists(st.fs, release(st.d))
	if err != nil {
		return err
	}
	if damaged { // and maybe current: the name must not be without a release at any time
		err = st.fs.Exchange(st.tree(), release(st.d))
	} else {
		err = st.fs.Rename(st.tree(), release(st.d))
	}
	if err != nil {
		return err
	}
	if err := st.fs.SyncDir(releasesDir); err != nil {
		return err
	}
	if err := st.fs.SyncDir(st.dir); err != nil {
		return err
	}
	return st.sweep(st.d)
}
