package devstate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A history knows every statement that was made, and which of them the core receipted.
type history struct {
	t         *testing.T
	signer    Signer
	made      map[[2]uint64]*seal.SealedStatement // by epoch and seq
	receipted uint64                              // of epoch 1
}

func newHistory(t *testing.T) *history {
	return &history{t: t, signer: newSigner(t), made: map[[2]uint64]*seal.SealedStatement{}}
}

func (h *history) say(st *State) *seal.SealedStatement {
	h.t.Helper()
	s := say(h.t, st, "x")
	if old, ok := h.made[[2]uint64{s.Epoch, s.Seq}]; ok && old.Chain != s.Chain {
		h.t.Fatalf("epoch %d, seq %d was used before with other content", s.Epoch, s.Seq)
	}
	h.made[[2]uint64{s.Epoch, s.Seq}] = s
	return s
}

// write makes a directory with the given files.
func write(t *testing.T, tree map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "outbox"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range tree {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// survives opens what a power cut left. Every statement that was made and has no receipt must be there still, and the next
// one must use a number that was never used. next is what the sequence must go on with.
func (h *history) survives(step string, tree map[string]string, next uint64) {
	h.t.Helper()
	st := open(h.t, write(h.t, tree), h.signer)
	held := map[uint64]bool{}
	for _, s := range pendingOf(st) {
		held[s.Seq] = true
	}
	for id, s := range h.made {
		if s.Seq > h.receipted && s.Seq < next && !held[id[1]] {
			h.t.Errorf("%s: seq %d is gone", step, s.Seq)
		}
	}
	for n := range held {
		if n <= h.receipted && st.s.Seq >= h.receipted {
			h.t.Errorf("%s: seq %d has its receipt and is still held", step, n)
		}
	}
	s := say(h.t, st, "after the cut")
	if s.Epoch != 1 || s.Seq != next {
		h.t.Errorf("%s: the sequence went on with epoch %d, seq %d, want seq %d", step, s.Epoch, s.Seq, next)
	}
	if before := h.made[[2]uint64{1, next - 1}]; before != nil && s.Prev != before.Chain {
		h.t.Errorf("%s: the chain broke", step)
	}
}

// merge is a tree with the state files of one and the outbox of another.
func merge(state, outbox map[string]string) map[string]string {
	out := map[string]string{}
	for name, c := range state {
		if !strings.HasPrefix(name, "/outbox/") {
			out[name] = c
		}
	}
	for name, c := range outbox {
		if strings.HasPrefix(name, "/outbox/") {
			out[name] = c
		}
	}
	return out
}

func TestPowerCutWhileStating(t *testing.T) {
	h := newHistory(t)
	dir := t.TempDir()
	st := open(t, dir, h.signer)
	h.say(st)
	before := files(t, dir)
	s := h.say(st)
	after := files(t, dir)
	name := strings.TrimPrefix(st.file(1, 2), dir)
	for n := range len(s.Sealed) + 1 { // the temporary file, torn at each byte
		if n%16 != 0 && n != len(s.Sealed) {
			continue
		}
		tree := merge(before, before)
		tree["/outbox/."+filepath.Base(name)+".tmp-1"] = string(s.Sealed[:n])
		h.survives(fmt.Sprintf("temporary file of %d bytes", n), tree, 2)
	}
	h.survives("renamed", after, 3)
}

func TestPowerCutWhileLettingGo(t *testing.T) {
	h := newHistory(t)
	dir := t.TempDir()
	st := open(t, dir, h.signer)
	var all []*seal.SealedStatement
	for range 4 {
		all = append(all, h.say(st))
	}
	before := files(t, dir)
	if err := st.Receipted(receipt(all[2])); err != nil {
		t.Fatal(err)
	}
	after := files(t, dir)

	h.survives("before the state was saved", before, 5)
	torn := merge(before, before)
	for name, c := range after {
		if before[name] != c && !strings.HasPrefix(name, "/outbox/") {
			torn[name] = c[:len(c)/2] // which no power cut does, because it is renamed when it is whole
			lostEpoch(t, write(t, torn), h.signer, "state damaged")
		}
	}
	h.receipted = 3
	gone := merge(after, before)
	h.survives("the state saved, nothing removed", gone, 5)
	for i := range 3 { // removals reach the disk in any order
		some := merge(after, before)
		delete(some, strings.TrimPrefix(st.file(1, uint64(i+1)), dir))
		h.survives(fmt.Sprintf("seq %d removed", i+1), some, 5)
	}
	h.survives("all removed", after, 5)
}

// lostEpoch opens a tree and checks that the next statement begins another epoch, which names the loss.
func lostEpoch(t *testing.T, dir string, signer Signer, why string) *seal.SealedStatement {
	t.Helper()
	s := say(t, open(t, dir, signer), "after")
	if s.Epoch < 2 || s.Seq != 1 || s.Prev != (seal.Chain{}) || s.Before == nil || !strings.Contains(s.Before.Lost, why) {
		t.Fatalf("statement %+v, before %+v, want a new epoch that names %q", s.Statement, s.Before, why)
	}
	return s
}

func TestDamagedStatement(t *testing.T) {
	for bad := uint64(1); bad <= 3; bad++ {
		for kind, damage := range map[string]func([]byte) []byte{
			"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; b[3] ^= 0xff; return b }, "cut": func(b []byte) []byte { return b[:len(b)-1] },
			"empty": func([]byte) []byte { return nil }, "too large": func([]byte) []byte { return make([]byte, 1<<20) },
		} {
			t.Run(fmt.Sprintf("%s %d", kind, bad), func(t *testing.T) {
				h := newHistory(t)
				dir := t.TempDir()
				st := open(t, dir, h.signer)
				for range 3 {
					h.say(st)
				}
				path := st.file(1, bad)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				b = damage(b)
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				s := lostEpoch(t, dir, h.signer, filepath.Base(path)) // the cause, not what followed from it
				if s.Before.Epoch != 1 || s.Before.Seq != bad-1 {
					t.Errorf("the epoch before ended at %+v", s.Before)
				}
				if kept, err := os.ReadFile(path + damagedSuffix); err != nil || string(kept) != string(b) {
					t.Errorf("the damaged statement was not kept: %v", err)
				}
				st = open(t, dir, h.signer) // and the next start is a quiet one
				if got := len(pendingOf(st)); got != int(bad) || st.Oldest().Seq != 1 {
					t.Errorf("%d statements held", got)
				}
				if next := say(t, st, "more"); next.Epoch != s.Epoch || next.Seq != 2 || next.Prev != s.Chain {
					t.Errorf("then %+v", next.Statement)
				}
			})
		}
	}
}

// A flipped bit is found wherever it is, or the core would refuse the statement at every try.
func TestFlippedAtEachByte(t *testing.T) {
	signer, dir := newSigner(t), t.TempDir()
	st := open(t, dir, signer)
	s := say(t, st, "x")
	tree := files(t, dir)
	name := strings.TrimPrefix(st.file(1, 1), dir)
	for i := range s.Sealed {
		bad := []byte(tree[name])
		bad[i] ^= 1 << (i % 8)
		flipped := merge(tree, tree)
		flipped[name] = string(bad)
		if st := open(t, write(t, flipped), signer); st.Oldest() != nil || st.Attach().Epoch != 2 {
			t.Errorf("byte %d of %d: not found", i, len(bad))
		}
	}
}

// The power goes between the setting aside of the newest statement, which is damaged, and the saving of the new epoch. The
// number of that statement must not be used again in its epoch.
func TestPowerCutWhileSettingAside(t *testing.T) {
	h := newHistory(t)
	dir := t.TempDir()
	st := open(t, dir, h.signer)
	h.say(st)
	h.say(st)
	path := st.file(1, 2)
	if err := errors.Join(os.Rename(path, path+damagedSuffix), os.WriteFile(path+damagedSuffix, []byte("?"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := lostEpoch(t, dir, h.signer, filepath.Base(path))
	if next := say(t, open(t, dir, h.signer), "more"); next.Epoch != s.Epoch || next.Seq != 2 {
		t.Errorf("every start begins an epoch: %+v", next.Statement)
	}
}

func TestMissingStatement(t *testing.T) {
	h := newHistory(t)
	dir := t.TempDir()
	st := open(t, dir, h.signer)
	for range 3 {
		h.say(st)
	}
	if err := os.Remove(st.file(1, 2)); err != nil {
		t.Fatal(err)
	}
	lostEpoch(t, dir, h.signer, filepath.Base(st.file(1, 3)))
}

// With both copies of the state gone, epoch and start count must be higher than any before, and what the outbox holds is
// still delivered.
func TestBothSlotsDamaged(t *testing.T) {
	h := newHistory(t)
	dir := t.TempDir()
	st := open(t, dir, h.signer)
	if _, err := st.Started(); err != nil {
		t.Fatal(err)
	}
	old := h.say(st)
	for _, name := range []string{"state.a", "state.b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("rust"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	st = open(t, dir, h.signer)
	if n, err := st.Started(); err != nil || n < 3 {
		t.Errorf("start %d, %v", n, err)
	}
	if st.Oldest() == nil || st.Oldest().Chain != old.Chain {
		t.Fatal("the outbox was forgotten")
	}
	if s := say(t, st, "x"); s.Epoch < 2 || s.Seq != 1 || s.Before == nil || !strings.Contains(s.Before.Lost, "state damaged") {
		t.Errorf("statement %+v", s.Statement)
	}
	if err := st.Receipted(receipt(old)); err != nil {
		t.Errorf("a receipt for the epoch before: %v", err)
	}
	again := open(t, dir, h.signer)
	if again.Attach().Epoch != st.Attach().Epoch || again.Attach().Highest != 1 || len(pendingOf(again)) != 1 {
		t.Errorf("after a restart: %+v", again.Attach())
	}
}
