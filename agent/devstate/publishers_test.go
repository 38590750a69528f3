package devstate

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

func newKeys(t *testing.T, n int) (all []ed25519.PrivateKey) {
	t.Helper()
	for range n {
		_, k, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b ed25519.PrivateKey) int { return cmp.Compare(string(a[32:]), string(b[32:])) })
	return all
}

// setOf seals a set of publishers with some root keys and a threshold of 2, signed by some keys.
func setOf(t *testing.T, number uint64, roots []ed25519.PrivateKey, signers ...ed25519.PrivateKey) []byte {
	t.Helper()
	p := &seal.PublisherSet{Format: seal.PublisherSetFormat, Fleet: "acme", Number: number, Threshold: 2}
	for _, k := range roots {
		p.Roots = append(p.Roots, k[32:])
	}
	var all [][]byte
	for _, k := range signers {
		b, err := seal.SignPublisherSet(p, k)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	sealed, err := seal.JoinPublisherSet(all...)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestPublishers(t *testing.T) {
	dir, a := t.TempDir(), sealtest.New(t, "acme")
	first, second := newKeys(t, 3), newKeys(t, 2)
	openThem := func() *Publishers {
		t.Helper()
		p, err := OpenPublishers(dir, "acme", a.Public(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	pinned := setOf(t, 1, first, a.Key)
	tests := []struct {
		name   string
		sealed []byte
		want   error
		holds  uint64
	}{
		{"no set", []byte("junk"), wire.ErrMalformed, 0},
		{"a first set of nobody", setOf(t, 1, first, first[0], first[1]), seal.ErrSignature, 0},
		{"a later one before the first", setOf(t, 2, first, first[0], first[1]), seal.ErrSignature, 0},
		{"the first", pinned, nil, 1},
		{"another first one of the authority", setOf(t, 1, second, a.Key), seal.ErrSignature, 1},
		{"the next of the authority", setOf(t, 2, first, a.Key), seal.ErrSignature, 1},
		{"the next of too few", setOf(t, 2, second, first[0]), seal.ErrSignature, 1},
		{"the next of its own root keys", setOf(t, 2, second, second...), seal.ErrSignature, 1},
		{"one too far", setOf(t, 3, second, first[0], first[1]), seal.ErrSignature, 1},
		{"the next", setOf(t, 2, second, first[0], first[2]), nil, 2},
		{"the one after, by the roots before", setOf(t, 3, first, first...), seal.ErrSignature, 2},
		{"the one after", setOf(t, 3, first, second...), nil, 3},
	}
	for _, tt := range tests {
		if _, err := openThem().Take(tt.sealed); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if n := openThem().Number(); n != tt.holds {
			t.Fatalf("%s: holds set %d, want %d", tt.name, n, tt.holds)
		}
	}
	if b, err := openThem().pinned(); err != nil || !bytes.Equal(b, pinned) {
		t.Errorf("set 1 is not kept as it was signed: %v", err)
	}
	for _, ext := range []string{".a", ".b"} {
		if err := os.WriteFile(filepath.Join(dir, "publishers"+ext), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := openThem()
	if _, err := p.Take(pinned); !errors.Is(err, ErrPinned) || p.Set() != nil {
		t.Errorf("damaged: %v, and set %d is trusted", err, p.Number()) // a set that was pinned is not pinned a second time
	}
}
