package seal

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
)

var (
	publisherKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x55}, 32))
	// The root keys, in the order of their public keys.
	roots = func() []ed25519.PrivateKey {
		var keys []ed25519.PrivateKey
		for i := range byte(3) {
			keys = append(keys, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x66 + i}, 32)))
		}
		slices.SortFunc(keys, func(a, b ed25519.PrivateKey) int { return bytes.Compare(public(a), public(b)) })
		return keys
	}()
)

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sampleRelease() *Release {
	return &Release{Format: ReleaseFormat, Name: "camera", Version: "1.4", Number: 17, Manifest: wire.Digest{0xa1}, Size: 1347}
}

// sampleSet is a set of which two root keys of three must sign the next.
func sampleSet(number uint64) *PublisherSet {
	p := &PublisherSet{
		Format: PublisherSetFormat, Fleet: "plant", Number: number, Threshold: 2, Publishers: []Publisher{{"ci", public(publisherKey)}, {"release", public(authority)}},
	}
	for _, k := range roots {
		p.Roots = append(p.Roots, public(k))
	}
	return p
}

func joined(tb testing.TB, signatures ...[]byte) []byte {
	tb.Helper()
	b, err := JoinPublisherSet(signatures...)
	fatal(tb, err)
	return b
}

// signed is a set with the signatures of these keys.
func signed(tb testing.TB, p *PublisherSet, keys ...ed25519.PrivateKey) []byte {
	tb.Helper()
	var signatures [][]byte
	for _, k := range keys {
		b, err := SignPublisherSet(p, k)
		fatal(tb, err)
		signatures = append(signatures, b)
	}
	return joined(tb, signatures...)
}

func openRelease(b []byte) (any, error) {
	r, err := OpenRelease(b, sampleSet(1))
	if err != nil {
		return nil, err
	}
	return *r, nil
}

func openFirstSet(b []byte) (any, error) {
	p, err := OpenPublisherSet(b, "plant", nil, public(authority))
	if err != nil {
		return nil, err
	}
	return *p, nil
}

func openSecondSet(b []byte) (*PublisherSet, error) {
	return OpenPublisherSet(b, "plant", sampleSet(1), public(authority))
}

func TestGoldenNextPublisherSet(t *testing.T) {
	now := signed(t, sampleSet(2), roots[0], roots[2])
	b := golden(t, "publisher_set_next.sealed", now)
	if !bytes.Equal(b, now) {
		t.Errorf("set 2 is sealed as\n%x, want\n%x", now, b)
	}
	p, err := openSecondSet(b)
	if err != nil || !reflect.DeepEqual(p, sampleSet(2)) {
		t.Errorf("it reads as %+v, %v", p, err)
	}
	for n := range b {
		if _, err := openSecondSet(b[:n:n]); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("cut at %d of %d: %v, want ErrMalformed", n, len(b), err)
		}
	}
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := openSecondSet(b); err == nil || !known(err) {
			t.Errorf("with bit %d of byte %d turned: %v", bit%8, bit/8, err)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

// Of the set before two root keys must sign, each for itself.
func TestNextPublisherSetNeedsItsRoots(t *testing.T) {
	set := sampleSet(2)
	a := bytes.Repeat([]byte{0x77}, 32)
	stranger := ed25519.NewKeyFromSeed(a)
	for name, c := range map[string]struct {
		keys []ed25519.PrivateKey
		ok   bool
	}{
		"two":                     {roots[:2], true},
		"two in another order":    {[]ed25519.PrivateKey{roots[2], roots[0]}, true},
		"three":                   {roots, true},
		"two and a stranger":      {[]ed25519.PrivateKey{stranger, roots[1], roots[2]}, true},
		"one":                     {roots[:1], false},
		"one twice":               {[]ed25519.PrivateKey{roots[1], roots[1]}, false},
		"one and a stranger":      {[]ed25519.PrivateKey{roots[1], stranger}, false},
		"one and the authority":   {[]ed25519.PrivateKey{roots[1], authority}, false},
		"one and a publisher":     {[]ed25519.PrivateKey{roots[1], publisherKey}, false},
		"the authority":           {[]ed25519.PrivateKey{authority}, false},
		"as many strangers":       {[]ed25519.PrivateKey{stranger, publisherKey, authority}, false},
		"one, as often as may be": {slices.Repeat(roots[:1], MaxRoots), false},
	} {
		b := signed(t, set, c.keys...)
		p, err := openSecondSet(b)
		if c.ok && (err != nil || !reflect.DeepEqual(p, set)) || !c.ok && !errors.Is(err, ErrSignature) {
			t.Errorf("signed by %s: %v", name, err)
		}
		verified, err := sampleSet(1).RootsOf(b)
		if err != nil || (len(verified) >= 2) != c.ok {
			t.Errorf("signed by %s: root keys %v, error %v", name, verified, err)
		}
	}
	// New root keys of the set itself count for nothing.
	mine := sampleSet(2)
	mine.Roots, mine.Threshold = [][]byte{public(stranger)}, 1
	if _, err := openSecondSet(signed(t, mine, stranger)); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by its own root: %v", err)
	}
	// A signature that names a root key and was made by another counts for nothing.
	payload, err := wire.Marshal(set)
	fatal(t, err)
	forged, err := sealAs(domainPublishers, rootKID(public(roots[0])), payload, cose.AlgorithmEdDSA, stranger)
	fatal(t, err)
	good, err := SignPublisherSet(set, roots[1])
	fatal(t, err)
	if _, err := openSecondSet(joined(t, forged, good)); !errors.Is(err, ErrSignature) {
		t.Errorf("with a forged signature: %v", err)
	}
	// It does not take away what a good one says either.
	other, err := SignPublisherSet(set, roots[0])
	fatal(t, err)
	if _, err := openSecondSet(joined(t, forged, good, other)); err != nil {
		t.Errorf("with a forged signature and two good ones: %v", err)
	}
}

func TestPublisherSetsFollowOneAnother(t *testing.T) {
	pub := public(authority)
	first := golden(t, "publisher_set.sealed", nil)
	foreign := sampleSet(2)
	foreign.Fleet = "other"
	for name, c := range map[string]struct {
		b      []byte
		before *PublisherSet
		key    ed25519.PublicKey
	}{
		"a number skipped":        {signed(t, sampleSet(3), roots...), sampleSet(1), pub},
		"the same number":         {first, sampleSet(1), pub},
		"an older one":            {signed(t, sampleSet(2), roots...), sampleSet(2), pub},
		"a second one first":      {signed(t, sampleSet(2), roots...), nil, pub},
		"another fleet":           {signed(t, foreign, roots...), sampleSet(1), pub},
		"set 1 by another key":    {first, nil, token.Public()},
		"set 1 by no key":         {first, nil, nil},
		"set 1 by its roots":      {signed(t, sampleSet(1), roots...), nil, pub},
		"set 2 by the authority":  {signed(t, sampleSet(2), authority), sampleSet(1), pub},
		"set 1 in another domain": {joined(t, resealPayload(t, domainOrder)), nil, pub},
	} {
		if _, err := OpenPublisherSet(c.b, "plant", c.before, c.key); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	if _, err := OpenPublisherSet(first, "other", nil, pub); !errors.Is(err, ErrSignature) {
		t.Errorf("in another fleet: %v", err)
	}
}

// resealPayload signs the golden set 1 with the authority's key in a domain.
func resealPayload(t *testing.T, domain string) []byte {
	t.Helper()
	b, err := sealAs(domain, authorityKID, golden(t, "publisher_set.payload", nil), cose.AlgorithmEdDSA, authority)
	fatal(t, err)
	return b
}

func TestPublisherSetsKeepTheirForm(t *testing.T) {
	set := sampleSet(2)
	one, err := SignPublisherSet(set, roots[0])
	fatal(t, err)
	set.Publishers = nil
	two, err := SignPublisherSet(set, roots[1])
	fatal(t, err)
	marshal := func(v any) []byte {
		b, err := wire.Marshal(v)
		fatal(t, err)
		return b
	}
	payload := append([]byte{0xa7}, append(bytes.Clone(golden(t, "publisher_set.payload", nil)[1:]), 0x18, 99, 1)...)
	more, err := sealAs(domainPublishers, authorityKID, payload, cose.AlgorithmEdDSA, authority)
	fatal(t, err)
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"no signatures":        marshal(sealedSet{}),
		"signatures of two":    joined(t, one, two),
		"too many":             marshal(sealedSet{slices.Repeat([][]byte{one}, MaxRoots+1)}),
		"a bare signature":     one,
		"no COSE":              marshal(sealedSet{[][]byte{{1, 2, 3}}}),
		"too large":            make([]byte, MaxPublisherSet+1),
		"a key of tomorrow":    joined(t, more),
		"and something behind": append(joined(t, one), 0),
	} {
		_, openErr := openSecondSet(b)
		_, peekErr := PeekPublisherSet(b)
		_, listErr := PublisherSignatures(b)
		_, rootErr := sampleSet(1).RootsOf(b)
		for _, err := range []error{openErr, peekErr, listErr, rootErr} {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s: %v, want ErrMalformed", name, err)
			}
		}
	}
	if _, err := JoinPublisherSet(); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no signatures: %v", err)
	}
	if _, err := JoinPublisherSet(slices.Repeat([][]byte{one}, MaxRoots+1)...); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("too many signatures: %v", err)
	}
}

func TestPublisherSetRules(t *testing.T) {
	for name, change := range map[string]func(*PublisherSet){
		"format":               func(p *PublisherSet) { p.Format = 2 },
		"no fleet":             func(p *PublisherSet) { p.Fleet = "" },
		"no number":            func(p *PublisherSet) { p.Number = 0 },
		"no roots":             func(p *PublisherSet) { p.Roots = nil },
		"too many roots":       func(p *PublisherSet) { p.Roots = make([][]byte, MaxRoots+1) },
		"no threshold":         func(p *PublisherSet) { p.Threshold = 0 },
		"threshold too high":   func(p *PublisherSet) { p.Threshold = 4 },
		"a short root":         func(p *PublisherSet) { p.Roots[1] = p.Roots[1][:31] },
		"a root twice":         func(p *PublisherSet) { p.Roots[1] = p.Roots[0] },
		"roots not in order":   func(p *PublisherSet) { slices.Reverse(p.Roots) },
		"too many publishers":  func(p *PublisherSet) { p.Publishers = make([]Publisher, MaxPublishers+1) },
		"a publisher twice":    func(p *PublisherSet) { p.Publishers[1].Name = "ci" },
		"not in order":         func(p *PublisherSet) { slices.Reverse(p.Publishers) },
		"no name":              func(p *PublisherSet) { p.Publishers[0].Name = "" },
		"a long name":          func(p *PublisherSet) { p.Publishers[1].Name = strings.Repeat("p", maxPublisherName+1) },
		"a publisher's no key": func(p *PublisherSet) { p.Publishers[0].Key = nil },
	} {
		p := sampleSet(1)
		change(p)
		if err := p.Check(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
		if _, err := SignPublisherSet(p, authority); err == nil {
			t.Errorf("%s: it is signed all the same", name)
		}
		payload, err := wire.Marshal(p)
		fatal(t, err)
		b, err := sealAs(domainPublishers, authorityKID, payload, cose.AlgorithmEdDSA, authority)
		fatal(t, err)
		if _, err := openFirstSet(joined(t, b)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s, signed: %v, want ErrMalformed", name, err)
		}
	}
	if _, err := SignPublisherSet(sampleSet(1), deviceKey); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by a device's key: %v", err)
	}
}

func TestReleaseNeedsAPublisher(t *testing.T) {
	b := golden(t, "release.sealed", nil)
	without := sampleSet(2)
	without.Publishers = without.Publishers[1:]
	if _, err := OpenRelease(b, without); !errors.Is(err, ErrPublisher) {
		t.Errorf("by a publisher that was removed: %v, want ErrPublisher", err)
	}
	without.Publishers = nil
	if _, err := OpenRelease(b, without); !errors.Is(err, ErrPublisher) {
		t.Errorf("where nobody may publish: %v, want ErrPublisher", err)
	}
	for name, key := range map[string]ed25519.PrivateKey{"a root": roots[0], "a stranger": token.key()} {
		own, err := SealRelease(sampleRelease(), key)
		fatal(t, err)
		if _, err := OpenRelease(own, sampleSet(1)); !errors.Is(err, ErrPublisher) {
			t.Errorf("by %s: %v, want ErrPublisher", name, err)
		}
	}
	// It says that a publisher signed it, and somebody else did.
	payload := golden(t, "release.payload", nil)
	forged, err := sealAs(domainRelease, rootKID(public(publisherKey)), payload, cose.AlgorithmEdDSA, roots[0])
	fatal(t, err)
	if _, err := OpenRelease(forged, sampleSet(1)); !errors.Is(err, ErrSignature) {
		t.Errorf("forged: %v, want ErrSignature", err)
	}
	if _, err := SealRelease(sampleRelease(), deviceKey); !errors.Is(err, ErrSignature) {
		t.Errorf("by a device's key: %v", err)
	}
	tomorrow := sampleRelease()
	tomorrow.Format = 2
	own, err := SealRelease(tomorrow, publisherKey)
	fatal(t, err)
	if _, err := OpenRelease(own, sampleSet(1)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("of another format: %v, want ErrMalformed", err)
	}
	more, err := sealAs(domainRelease, rootKID(public(publisherKey)), append([]byte{0xa7}, append(bytes.Clone(payload[1:]), 0x18, 99, 1)...), cose.AlgorithmEdDSA, publisherKey)
	fatal(t, err)
	if _, err := OpenRelease(more, sampleSet(1)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("with a key of tomorrow: %v, want ErrMalformed", err)
	}
}

func TestPublisherSignatures(t *testing.T) {
	got, err := PublisherSignatures(golden(t, "publisher_set_next.sealed", nil))
	fatal(t, err)
	if len(got) != 2 || got[0].Key != PublisherKeyOf(public(roots[0])) || got[1].Key != PublisherKeyOf(public(roots[2])) {
		t.Errorf("%+v", got)
	}
	if again := joined(t, got[0].Bytes, got[1].Bytes); !bytes.Equal(again, golden(t, "publisher_set_next.sealed", nil)) {
		t.Error("taken apart and joined it is another")
	}
	if got, err = PublisherSignatures(golden(t, "publisher_set.sealed", nil)); err != nil || len(got) != 1 || !got[0].Key.IsZero() {
		t.Errorf("of the authority: %+v, %v", got, err)
	}
}
