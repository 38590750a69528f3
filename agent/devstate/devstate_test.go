package devstate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func newSigner(t *testing.T) Signer {
	t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Signer{Device: ident.NewDeviceID(), KeyID: ident.KeyIDOfSPKI(spki), Key: key}
}

func open(t *testing.T, dir string, s Signer) *State {
	t.Helper()
	st, err := Open(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// say makes a statement with the given text in it.
func say(t *testing.T, st *State, text string) *seal.SealedStatement {
	t.Helper()
	body, err := wire.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	s, err := st.State(seal.Statement{Type: seal.StatementRegister, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// receipt covers everything up to s.
func receipt(s *seal.SealedStatement) *seal.Receipt {
	return &seal.Receipt{Version: 1, Device: s.Device, ClusterEpoch: 1, Epoch: s.Epoch, Seq: s.Seq, Chain: s.Chain, LogTimeMS: 1_770_000_000_000}
}

func pendingOf(st *State) []*seal.SealedStatement { return st.pending }

func TestRestartKeepsSequence(t *testing.T) {
	dir, signer := t.TempDir(), newSigner(t)
	var prev seal.Chain
	for i := range uint64(4) {
		st := open(t, dir, signer)
		if n, err := st.Started(); err != nil || n != i+1 {
			t.Errorf("start %d, %v", n, err)
		}
		s := say(t, st, "x")
		if s.Epoch != 1 || s.Seq != i+1 || s.Prev != prev || s.Device != signer.Device {
			t.Errorf("statement %d: %+v", i+1, s.Statement)
		}
		if err := s.Verify(signer.Key.Public().(*ecdsa.PublicKey)); err == nil {
			t.Error("a statement that was not parsed verified")
		}
		prev = s.Chain
	}
	st := open(t, dir, signer)
	a := st.Attach()
	if a.Lowest != 1 || a.Highest != 4 || a.Chain != prev || a.Start != 4 || a.Epoch != 1 {
		t.Errorf("attach %+v", a)
	}
	for i, s := range pendingOf(st) {
		if err := s.Verify(signer.Key.Public().(*ecdsa.PublicKey)); err != nil || s.Seq != uint64(i+1) {
			t.Errorf("kept statement %d: seq %d, %v", i+1, s.Seq, err)
		}
	}
}

func TestReceipts(t *testing.T) {
	dir, signer := t.TempDir(), newSigner(t)
	st := open(t, dir, signer)
	var all []*seal.SealedStatement
	for range 4 {
		all = append(all, say(t, st, "x"))
	}
	bad := func(name string, change func(*seal.Receipt)) {
		t.Helper()
		r := receipt(all[1])
		change(r)
		if err := st.Receipted(r); !errors.Is(err, ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
		if st.Oldest() != all[0] {
			t.Fatalf("%s: statements were let go", name)
		}
	}
	bad("another device's", func(r *seal.Receipt) { r.Device = ident.DeviceID{1} })
	bad("another chain", func(r *seal.Receipt) { r.Chain[0] ^= 1 })
	bad("a seq that was never stated", func(r *seal.Receipt) { r.Seq = 5 })
	bad("an epoch that was never begun", func(r *seal.Receipt) { r.Epoch = 2 })

	if err := st.Receipted(receipt(all[1])); err != nil {
		t.Fatal(err)
	}
	if st.Oldest() != all[2] || st.Attach().Lowest != 3 {
		t.Errorf("oldest %+v, attach %+v", st.Oldest(), st.Attach())
	}
	if got := st.Floor(); got.UnixMilli() != 1_770_000_000_000 {
		t.Errorf("the receipt's time did not raise the floor: %v", got)
	}
	if err := st.Receipted(receipt(all[0])); err != nil {
		t.Errorf("an old receipt is no news: %v", err)
	}
	st = open(t, dir, signer)
	if st.Oldest().Seq != 3 || st.Attach().ClusterEpoch != 1 {
		t.Errorf("after a restart: oldest %d, attach %+v", st.Oldest().Seq, st.Attach())
	}
	if err := st.Receipted(receipt(all[3])); err != nil {
		t.Fatal(err)
	}
	if st.Oldest() != nil || st.Attach().Lowest != 5 || st.Attach().Highest != 4 {
		t.Errorf("all receipted: attach %+v", st.Attach())
	}
	st = open(t, dir, signer)
	if s := say(t, st, "y"); s.Seq != 5 || s.Prev != all[3].Chain {
		t.Errorf("the sequence went on with %+v", s.Statement)
	}
}

func TestOutboxFull(t *testing.T) {
	st := open(t, t.TempDir(), newSigner(t))
	st.size = MaxOutbox - 1000
	body, err := wire.Marshal(strings.Repeat("x", 2000))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.State(seal.Statement{Type: seal.StatementRegister, Body: body}); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
	if s := say(t, st, "small"); s.Seq != 1 {
		t.Errorf("the one that was refused used up seq 1: %d", s.Seq)
	}
	if err := st.Receipted(receipt(st.Oldest())); err != nil {
		t.Fatal(err)
	}
	if st.size != MaxOutbox-1000 {
		t.Errorf("size %d after the receipt", st.size)
	}
}

// A statement that could not be made durable was not made.
func TestStatementNotWritten(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir, newSigner(t))
	first := say(t, st, "one")
	blocked := st.file(1, 2)
	if err := os.Mkdir(blocked, 0o700); err != nil { // nothing can be renamed over it
		t.Fatal(err)
	}
	if _, err := st.State(seal.Statement{Type: seal.StatementRegister, Body: []byte{0xf6}}); err == nil {
		t.Fatal("stated without a file")
	}
	if a := st.Attach(); a.Highest != 1 || a.Chain != first.Chain || len(pendingOf(st)) != 1 {
		t.Errorf("attach %+v", a)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if s := say(t, st, "two"); s.Seq != 2 || s.Prev != first.Chain {
		t.Errorf("then %+v", s.Statement)
	}
}

func TestSettings(t *testing.T) {
	dir, signer := t.TempDir(), newSigner(t)
	st := open(t, dir, signer)
	if i, k := st.Interval(); i != 0 || k != 0 {
		t.Errorf("told nothing, has %v, %v", i, k)
	}
	if err := st.Told(30*time.Second, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	if err := st.Told(30*time.Second, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(files(t, dir)) != fmt.Sprint(before) {
		t.Error("the same settings were written again")
	}
	floor := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, at := range []time.Time{floor, floor.Add(time.Minute), floor.Add(-time.Hour)} {
		if err := st.RaiseFloor(at); err != nil {
			t.Fatal(err)
		}
	}
	st = open(t, dir, signer)
	if i, k := st.Interval(); i != 30*time.Second || k != 5*time.Second || !st.Floor().Equal(floor) {
		t.Errorf("restarted with %v, %v, floor %v", i, k, st.Floor())
	}
}

// files is a directory tree as it is: path to content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A read that fails decides nothing: Open fails and the directory stays as it is.
func TestUnreadable(t *testing.T) {
	for _, name := range []string{"state.a", "state.b", "outbox/" + fmt.Sprintf("%020d-%020d", 1, 2)} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			dir, signer := t.TempDir(), newSigner(t)
			st := open(t, dir, signer)
			say(t, st, "one")
			say(t, st, "two")
			say(t, st, "three")
			if err := st.Receipted(receipt(st.Oldest())); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o700); err != nil { // reading a directory fails, as a failing disk does
				t.Fatal(err)
			}
			before := files(t, dir)
			if _, err := Open(dir, signer); err == nil {
				t.Fatal("opened what cannot be read")
			}
			if fmt.Sprint(files(t, dir)) != fmt.Sprint(before) {
				t.Error("something was changed")
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if st := open(t, dir, signer); st.Oldest().Seq != 2 || st.Attach().Highest != 3 {
				t.Errorf("readable again: %+v", st.Attach())
			}
		})
	}
}

func TestForeignStatement(t *testing.T) {
	dir, signer := t.TempDir(), newSigner(t)
	st := open(t, dir, signer)
	say(t, st, "one")
	other := newSigner(t)
	stranger := say(t, open(t, t.TempDir(), other), "theirs")
	if err := os.WriteFile(st.file(1, 1), stranger.Sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	st = open(t, dir, signer)
	if s := say(t, st, "two"); s.Epoch != 2 || s.Before == nil || s.Before.Lost == "" {
		t.Errorf("another device's statement passed as ours: %+v", s.Statement)
	}
	kept, err := os.ReadFile(st.file(1, 1) + damagedSuffix)
	if err != nil || !bytes.Equal(kept, stranger.Sealed) {
		t.Errorf("not kept: %v", err)
	}
}
