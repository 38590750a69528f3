package install

import (
	"context"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// seed copies what the device has: chunks that lie elsewhere in the release that is made, and those of the release that runs, or of the
// damaged one of the same name. Each is verified as it is read, because what runs may have been changed; then it is fetched.
func (st *stage) seed(ctx context.Context, buf []byte) error {
	sources := append([]*places{st.to}, st.running()...)
	bad := 0
	for i := range st.to.targets {
		t := &st.to.targets[i]
		if t.skip {
			continue
		}
		for n := range t.chunks.Len() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if st.have.has(t.first + n) {
				continue
			}
			c := t.chunks.At(n)
			found, damaged := st.lookUp(sources, c, buf)
			bad += damaged
			if !found {
				continue
			}
			saved, err := st.put(c.Digest, buf[:c.Size])
			if err != nil {
				return err
			}
			st.p.Saved += saved
		}
		st.tell(st.p)
	}
	if bad > 0 {
		st.o.Log.Warn("the running release is not as it was installed; its chunks that differ are fetched", "slot", st.Slot.dir, "chunks", bad)
	}
	return st.in.close()
}

// lookUp reads a chunk into buf from the first place that has it, and counts those that should and do not.
func (st *stage) lookUp(sources []*places, c artifact.Chunk, buf []byte) (found bool, damaged int) {
	for _, src := range sources {
		for _, x := range src.of(c.Digest) {
			if src.at(x).Size != c.Size || src == st.to && !st.have.has(st.to.number(x)) {
				continue
			}
			if st.in.read(src.targets[x.target].path, buf[:c.Size], x.off) == nil && wire.DigestOf(buf[:c.Size]) == c.Digest {
				return true, damaged
			}
			damaged++
		}
	}
	return false, damaged
}

// running are the chunks of installed releases from which this one can be made: the current one, and the one of this name that drifted.
func (st *stage) running() []*places {
	var out []*places
	if st.base != nil {
		out = append(out, newPlaces(filesOf(st.base, st.baseDir)))
	}
	if st.baseDir == release(st.d) {
		return out
	}
	if there, err := exists(st.fs, release(st.d)); err == nil && there {
		out = append(out, newPlaces(filesOf(st.m, release(st.d))))
	}
	return out
}

// learnBase reads the manifest of what runs. When it cannot be read, everything is fetched.
func (st *stage) learnBase() {
	d, err := st.Current()
	if err != nil || d.IsZero() {
		return
	}
	if st.base, err = st.Manifest(d); err != nil {
		st.o.Log.Warn("nothing is taken from the running release", "slot", st.Slot.dir, "err", err)
		return
	}
	st.baseDir = release(d)
}
