package devstate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A past is a state directory that was in use.
type past struct {
	*history
	last  string // what happened last
	tree  map[string]string
	bits  []string // names of its files, once per byte
	start uint64   // the newest that was counted
	used  seal.Attach
	held  []*seal.SealedStatement // what the outbox has when it is whole
}

// pasts are all that can have happened last.
var pasts = []string{"statement", "start", "receipt", "receipt for all", "epoch", "statement of a new epoch"}

func newPast(t *testing.T, last string) *past {
	t.Helper()
	f := &past{history: newHistory(t), last: last, start: 1}
	dir := t.TempDir()
	st := open(t, dir, f.signer)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	start := func() (err error) {
		f.start, err = st.Started()
		return err
	}
	must(start())
	for range 4 {
		f.say(st)
	}
	must(st.Receipted(receipt(st.Oldest())))
	f.say(st)
	switch last {
	case "start":
		must(start())
	case "receipt":
		must(st.Receipted(receipt(st.Oldest())))
	case "receipt for all":
		must(start())
		must(st.Receipted(receipt(f.made[[2]uint64{1, 5}])))
	case "epoch", "statement of a new epoch":
		must(os.WriteFile(st.file(1, 4), nil, 0o600))
		st = open(t, dir, f.signer)
		if last != "epoch" {
			f.say(st)
			f.say(st)
		}
	}
	f.held, f.used, f.tree = slices.Clone(st.pending), st.Attach(), files(t, dir)
	for name, c := range f.tree {
		for range len(c) {
			f.bits = append(f.bits, name)
		}
	}
	slices.Sort(f.bits)
	return f
}

// flip opens the directory with one bit of it flipped. It returns whether that was reported, and how many statements of the outbox
// were set aside; the error is what must not be.
func (f *past) flip(dir, name string, bit int) (reported bool, lost int, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return false, 0, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "outbox"), 0o700); err != nil {
		return false, 0, err
	}
	for n, c := range f.tree {
		b := []byte(c)
		if n == name {
			b[bit/8] ^= 1 << (bit % 8)
		}
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
			return false, 0, err
		}
	}
	st, err := Open(dir, f.signer)
	if err != nil {
		return false, 0, err
	}
	for _, s := range st.pending {
		if made := f.made[[2]uint64{s.Epoch, s.Seq}]; made == nil || string(made.Sealed) != string(s.Sealed) || made.Chain != s.Chain {
			return false, 0, fmt.Errorf("epoch %d, seq %d was not stated so", s.Epoch, s.Seq)
		}
	}
	for _, s := range f.held {
		if !slices.ContainsFunc(st.pending, func(p *seal.SealedStatement) bool { return p.Chain == s.Chain }) {
			lost++
		}
	}
	if st.s.Start < f.start {
		return false, 0, fmt.Errorf("start %d again", st.s.Start+1)
	}
	a := st.Attach()
	if a.Epoch == f.used.Epoch && a.Highest == f.used.Highest && a.Chain == f.used.Chain {
		return false, lost, nil
	}
	if err := f.goesOn(st); err != nil || bit%8 != 0 {
		return true, lost, err
	}
	again, err := Open(dir, f.signer)
	if err != nil {
		return false, 0, err
	}
	if got := again.Attach(); got.Epoch != a.Epoch || got.Start != a.Start || len(again.pending) != len(st.pending) {
		return false, 0, fmt.Errorf("opened again: %+v", got)
	}
	return true, lost, nil
}

// goesOn holds that a state which found damage goes on with an epoch of which nothing can have been stated, and says why.
func (f *past) goesOn(st *State) error {
	a, b := st.Attach(), st.s.Before
	if a.Epoch <= f.used.Epoch || a.Highest != 0 || b == nil || b.Lost == "" {
		return fmt.Errorf("%+v behind %+v, after %+v", a, b, f.used)
	}
	// It names an end of an epoch that the core can hold against what it has.
	if made := f.made[[2]uint64{b.Epoch, b.Seq}]; b.Seq > 0 && (made == nil || made.Chain != b.Chain) {
		return fmt.Errorf("epoch %d ended at seq %d, which was never stated so", b.Epoch, b.Seq)
	}
	return nil
}

// memory is a directory without a disk under it, where the system has one: a sync costs nothing there.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-flips-") //nolint:usetesting // not where the others are
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Ten thousand times a bit flips anywhere in the state and the outbox. Nothing is delivered that was not stated, nothing is missing
// without a word, no number of a start or a statement is used again, and the agent goes on.
func TestBitFlips(t *testing.T) {
	const flips, workers = 10_000, 4
	var all []*past
	for _, last := range pasts {
		all = append(all, newPast(t, last))
	}
	var (
		wg                    sync.WaitGroup
		mu                    sync.Mutex
		reported, quiet, gone int
	)
	base := memory(t)
	for w := range workers {
		wg.Go(func() {
			dir := filepath.Join(base, fmt.Sprint(w))
			r := rand.New(rand.NewPCG(10, uint64(w)))
			for range flips / workers {
				f := all[r.IntN(len(all))]
				name := f.bits[r.IntN(len(f.bits))]
				bit := r.IntN(8 * len(f.tree[name]))
				told, lost, err := f.flip(dir, name, bit)
				switch {
				case err != nil:
				case told == strings.HasSuffix(name, damagedSuffix): // which nobody reads
					err = fmt.Errorf("reported: %v", told)
				case lost > 0 && !strings.HasPrefix(name, "/outbox/"):
					err = fmt.Errorf("%d statements are gone", lost)
				}
				if err != nil {
					t.Errorf("%s last; bit %d of %s: %v", f.last, bit, name, err)
					return
				}
				mu.Lock()
				gone += lost
				if told {
					reported++
				} else {
					quiet++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("reported %d, without effect %d; %.2f statements set aside with each", reported, quiet, float64(gone)/float64(max(reported, 1)))
}

// A copy of the state that is gone is as bad as one that is damaged: what is left may be the older one.
func TestOneCopyIsGone(t *testing.T) {
	f := newPast(t, "receipt for all")
	for _, name := range []string{"/state.a", "/state.b"} {
		tree := merge(f.tree, f.tree)
		delete(tree, name)
		if err := f.goesOn(open(t, write(t, tree), f.signer)); err != nil {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
