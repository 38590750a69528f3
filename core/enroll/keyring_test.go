package enroll

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

var start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func newHolder(t *testing.T) *HolderKey {
	t.Helper()
	h, err := NewHolderKey()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// newFleet makes the keys of a fleet with a core node and the recovery key as holders.
func newFleet(t *testing.T) (made *command.Init, node, recovery *HolderKey) {
	t.Helper()
	node, recovery = newHolder(t), newHolder(t)
	made, err := NewFleet("acme", map[string]*HolderKey{"core-1": node, registry.RecoveryHolder: recovery}, start)
	if err != nil {
		t.Fatal(err)
	}
	return made, node, recovery
}

func fleetOf(c *command.Init) *registry.Fleet {
	return &registry.Fleet{Name: c.Fleet, Root: c.Root, CAs: c.CAs, Authority: c.Authority, Wraps: c.Wraps, Generation: 1}
}

func TestKeyringOpens(t *testing.T) {
	made, node, recovery := newFleet(t)
	for holder, key := range map[string]*HolderKey{"core-1": node, registry.RecoveryHolder: recovery} {
		k, err := OpenKeyring(fleetOf(made), holder, key)
		if err != nil {
			t.Fatalf("%s: %v", holder, err)
		}
		if k.Fleet() != "acme" {
			t.Errorf("fleet %q", k.Fleet())
		}
		pub, err := k.Trust().VerifyAuthority(k.AuthorityCert())
		if err != nil || !pub.Equal(k.Authority().Public().(ed25519.PublicKey)) {
			t.Errorf("%s: the authority's certificate is not its key's: %v", holder, err)
		}
		for _, id := range []ident.ID{ident.Device("acme", ident.NewDeviceID()), ident.Gateway("acme", "plant-7", "gw-a"), ident.Core("acme", "core-1")} {
			key, chain, err := k.NewLeafKey(id, start)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := k.Trust().Verify(parseChain(t, chain), start, id.Role)
			if err != nil || peer.ID != id {
				t.Errorf("%v: verified as %v, %v", id, peer.ID, err)
			}
			if !key.PublicKey.Equal(peer.Leaf.PublicKey) {
				t.Errorf("%v: certificate of another key", id)
			}
			if again := k.WithIssuer(id.Role, chain[0]); len(again) != 2 || !bytes.Equal(again[1], chain[1]) {
				t.Errorf("%v: issuer differs", id)
			}
		}
		if _, err := k.Chain(ident.Leaf{ID: ident.Authority("acme"), Now: start}); !errors.Is(err, ErrKey) {
			t.Errorf("a CA for authorities: %v", err)
		}
	}
}

func parseChain(t *testing.T, chain [][]byte) (out []*x509.Certificate) {
	t.Helper()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func TestKeyringStaysShut(t *testing.T) {
	made, node, _ := newFleet(t)
	other, _, _ := newFleet(t)
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	if _, err := OpenKeyring(fleetOf(made), "core-1", newHolder(t)); !errors.Is(err, ErrKey) {
		t.Errorf("another's key: %v", err)
	}
	if _, err := OpenKeyring(fleetOf(made), "core-2", node); !errors.Is(err, ErrKey) {
		t.Errorf("no such holder: %v", err)
	}
	tests := map[string]func(*registry.Fleet){
		"wrap flipped":       func(f *registry.Fleet) { f.Wraps = wrapsWith(f.Wraps, flip) },
		"wrap empty":         func(f *registry.Fleet) { f.Wraps = wrapsWith(f.Wraps, func([]byte) []byte { return []byte{} }) },
		"CA key flipped":     func(f *registry.Fleet) { f.CAs[0].Key = flip(f.CAs[0].Key) },
		"CA key cut":         func(f *registry.Fleet) { f.CAs[0].Key = f.CAs[0].Key[:5] },
		"CA role changed":    func(f *registry.Fleet) { f.CAs[0].Role, f.CAs[1].Role = f.CAs[1].Role, f.CAs[0].Role },
		"CA cert swapped":    func(f *registry.Fleet) { f.CAs[0].Cert, f.CAs[1].Cert = f.CAs[1].Cert, f.CAs[0].Cert },
		"CA of another":      func(f *registry.Fleet) { f.CAs[0] = other.CAs[0] },
		"authority flipped":  func(f *registry.Fleet) { f.Authority.Key = flip(f.Authority.Key) },
		"authority is a CA":  func(f *registry.Fleet) { f.Authority = f.CAs[0] },
		"authority's cert":   func(f *registry.Fleet) { f.Authority.Cert = other.Authority.Cert },
		"another fleet's":    func(f *registry.Fleet) { f.Wraps = other.Wraps },
		"authority as a CA":  func(f *registry.Fleet) { f.CAs[0].Key = f.Authority.Key },
		"one CA key for two": func(f *registry.Fleet) { f.CAs[0].Key = f.CAs[1].Key },
	}
	for name, change := range tests {
		f := fleetOf(made)
		f.CAs = append([]command.WrappedCA(nil), f.CAs...)
		change(f)
		if _, err := OpenKeyring(f, "core-1", node); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := fleetOf(made)
	bad.Root.Cert = bad.Root.Cert[:20]
	if _, err := OpenKeyring(bad, "core-1", node); err == nil {
		t.Error("a root certificate that does not parse")
	}
}

func wrapsWith(in []command.KeyWrap, f func([]byte) []byte) (out []command.KeyWrap) {
	for _, w := range in {
		out = append(out, command.KeyWrap{Holder: w.Holder, Wrap: f(w.Wrap)})
	}
	return out
}

func TestHolderKeyText(t *testing.T) {
	h := newHolder(t)
	text := h.Reveal()
	back, err := ParseHolderKey("  " + text + "\n")
	if err != nil || back.Reveal() != text {
		t.Fatalf("read back %v", err)
	}
	fk := bytes.Repeat([]byte{7}, 32)
	w, err := wrapTo("core-1", h.Public(), fk)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := back.unwrap(w.Wrap); err != nil || !bytes.Equal(got, fk) {
		t.Errorf("unwrapped %x, %v", got, err)
	}
	raw := strings.TrimSpace(text)
	for name, s := range map[string]string{
		"nothing": "", "no prefix": raw[5:], "cut": raw[:len(raw)-4], "another alphabet": raw[:len(raw)-1] + "!", "longer": raw + "AAAA",
	} {
		if _, err := ParseHolderKey(s); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), raw[6:20]) {
			t.Errorf("%s: the error repeats the key: %v", name, err)
		}
	}
}

// No private key of the fleet is readable in what goes into the log.
func TestNothingInTheClear(t *testing.T) {
	made, node, _ := newFleet(t)
	k, err := OpenKeyring(fleetOf(made), "core-1", node)
	if err != nil {
		t.Fatal(err)
	}
	b, err := command.Encode(made)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, k.authority.Seed()) {
		t.Error("the authority's seed is in the command")
	}
	for _, ca := range k.cas {
		scalar, err := ca.Key.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, scalar) {
			t.Error("a CA's key is in the command")
		}
	}
}

// A holder that joined opens the keys; after a rotation the one left out does not, and nothing else has changed.
func TestWrapAndRotate(t *testing.T) {
	made, node, recovery := newFleet(t)
	f := fleetOf(made)
	k, err := OpenKeyring(f, "core-1", node)
	if err != nil {
		t.Fatal(err)
	}
	second := newHolder(t)
	w, err := k.Wrap(f, "core-2", second.Public())
	if err != nil {
		t.Fatal(err)
	}
	f.Wraps = append(f.Wraps, w)
	k2, err := OpenKeyring(f, "core-2", second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Wrap(f, "core-3", []byte("short")); !errors.Is(err, ErrKey) {
		t.Errorf("wrapped to junk: %v", err)
	}
	if _, err := k.Rotate(f, []string{"core-1", "core-9"}); !errors.Is(err, ErrKey) {
		t.Errorf("rotated for a holder without a key: %v", err)
	}
	r, err := k2.Rotate(f, []string{"core-1"})
	if err != nil {
		t.Fatal(err)
	}
	after := &registry.Fleet{Name: f.Name, Root: r.Root, CAs: r.CAs, Authority: r.Authority, Wraps: r.Wraps, Generation: r.Generation}
	if r.Generation != f.Generation+1 || len(r.Wraps) != 2 {
		t.Errorf("generation %d, %d wraps", r.Generation, len(r.Wraps))
	}
	for holder, key := range map[string]*HolderKey{"core-1": node, registry.RecoveryHolder: recovery} {
		now, err := OpenKeyring(after, holder, key)
		if err != nil {
			t.Fatalf("%s after the rotation: %v", holder, err)
		}
		if !now.authority.Equal(k.authority) || len(now.cas) != len(k.cas) {
			t.Errorf("%s has other keys after the rotation", holder)
		}
		if _, err := now.Rotate(after, []string{"core-1"}); err != nil {
			t.Errorf("%s cannot rotate again: %v", holder, err)
		}
	}
	if _, err := OpenKeyring(after, "core-2", second); !errors.Is(err, ErrKey) {
		t.Errorf("who was left out: %v", err)
	}
	stolen := *after // the old wrap beside the new ciphertexts
	stolen.Wraps = append(slices.Clone(after.Wraps), w)
	if _, err := OpenKeyring(&stolen, "core-2", second); !errors.Is(err, ErrKey) {
		t.Errorf("the old fleet key opens the new ciphertexts: %v", err)
	}
}

// Every node derives the same, and each label and each input something else.
func TestDerive(t *testing.T) {
	made, node, recovery := newFleet(t)
	a, err := OpenKeyring(fleetOf(made), "core-1", node)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenKeyring(fleetOf(made), registry.RecoveryHolder, recovery)
	if err != nil {
		t.Fatal(err)
	}
	if a.Derive("x", []byte("1")) != b.Derive("x", []byte("1")) {
		t.Error("two nodes derive different values")
	}
	seen := make(map[[32]byte]bool)
	for _, label := range []string{"x", "y"} {
		for _, data := range []string{"", "1", "2"} {
			seen[a.Derive(label, []byte(data))] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d values of 6", len(seen))
	}
}

// Every node makes the same site key, and another one for each site, generation and fleet; it is none of the derived values.
func TestSiteKey(t *testing.T) {
	made, node, recovery := newFleet(t)
	a, err := OpenKeyring(fleetOf(made), "core-1", node)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenKeyring(fleetOf(made), registry.RecoveryHolder, recovery)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a.SiteKey("plant-7", 1), b.SiteKey("plant-7", 1)) {
		t.Error("two nodes make different keys")
	}
	other := *a
	other.fleet = "other"
	seen := map[string]bool{}
	for _, k := range []*Keyring{a, &other} {
		for _, site := range []string{"plant-7", "plant-71", "plant-7-1"} {
			for _, generation := range []uint64{0, 1, 11, 1 << 63} {
				got := k.SiteKey(site, generation)
				if len(got.Key) != wire.SiteKeySize || got.Generation != generation {
					t.Errorf("%d bytes of generation %d", len(got.Key), got.Generation)
				}
				seen[string(got.Key)] = true
			}
		}
	}
	if len(seen) != 24 {
		t.Errorf("%d keys of 24", len(seen))
	}
}
