package registry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// testKey is an ed25519 key that is the same in every run.
func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) } //nolint:forcetypeassert // an ed25519 key's

// An authorityKey is the authority of the fleets of these tests.
type authorityKey struct {
	key  ed25519.PrivateKey
	cert []byte
}

var authority = sync.OnceValue(func() authorityKey {
	root, err := ident.NewKey()
	if err != nil {
		panic(err)
	}
	ca, err := ident.NewRoot("acme", root, start)
	if err != nil {
		panic(err)
	}
	key := testKey(0xa0)
	cert, err := ca.Issue(ident.Leaf{ID: ident.Authority("acme"), Public: key.Public(), Now: start})
	if err != nil {
		panic(err)
	}
	return authorityKey{key, cert}
})

// The root keys and publishers of these tests.
var (
	rootA, rootB = testKey(1), testKey(2)
	ada, bob     = testKey(11), testKey(12)
)

// publisherSet is set n, in which the named publishers may publish.
func publisherSet(n uint64, publishers map[string]ed25519.PrivateKey) *seal.PublisherSet {
	p := &seal.PublisherSet{Format: seal.PublisherSetFormat, Fleet: "acme", Number: n, Roots: [][]byte{public(rootA), public(rootB)}, Threshold: 2}
	slices.SortFunc(p.Roots, slices.Compare)
	for _, name := range slices.Sorted(maps.Keys(publishers)) {
		p.Publishers = append(p.Publishers, seal.Publisher{Name: name, Key: public(publishers[name])})
	}
	return p
}

func setPublishers(t tester, p *seal.PublisherSet, keys ...ed25519.PrivateKey) *command.SetPublishers {
	t.Helper()
	sigs := make([][]byte, len(keys))
	for i, k := range keys {
		b, err := seal.SignPublisherSet(p, k)
		if err != nil {
			t.Fatalf("sign: %v", err)
		}
		sigs[i] = b
	}
	b, err := seal.JoinPublisherSet(sigs...)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	return &command.SetPublishers{Sealed: b}
}

// firstPublishers is set 1: ada may publish.
func firstPublishers(t tester) *command.SetPublishers {
	t.Helper()
	return setPublishers(t, publisherSet(1, map[string]ed25519.PrivateKey{"ada": ada}), authority().key)
}

func release(name string, n uint64) *seal.Release {
	return &seal.Release{
		Format: seal.ReleaseFormat, Name: name, Version: fmt.Sprintf("1.%d", n), Number: n, Manifest: wire.DigestOf(fmt.Append(nil, name, n)), Size: 400,
	}
}

func addArtifact(t tester, r *seal.Release, by ed25519.PrivateKey) *command.AddArtifact {
	t.Helper()
	b, err := seal.SealRelease(r, by)
	if err != nil {
		t.Fatalf("release: %v", err)
	}
	return &command.AddArtifact{Release: b, Parts: []wire.Digest{wire.DigestOf([]byte("part"))}, Kind: uint8(artifact.KindTree), Size: 1 << 20, Chunks: 16}
}

// added makes version n of an artifact known and returns its digest.
func (l *log) added(name string, n uint64) wire.Digest {
	l.t.Helper()
	x, ok := l.ok(addArtifact(l.t, release(name, n), ada)).(*Artifact)
	if !ok {
		l.t.Fatalf("no artifact")
	}
	return x.Digest
}

// publishing is a log of a fleet in which ada may publish.
func publishing(t tester) *log {
	t.Helper()
	l := newLog(t)
	l.ok(firstPublishers(t))
	return l
}

func TestPublishers(t *testing.T) {
	l := newLog(t)
	if _, err := l.state.View().PublishersInForce(); !errors.Is(err, ErrInvalid) {
		t.Errorf("before there are any: %v", err)
	}
	one := publisherSet(1, map[string]ed25519.PrivateKey{"ada": ada})
	l.refused(setPublishers(t, one, rootA), ErrInvalid) // not the authority
	l.refused(setPublishers(t, publisherSet(2, nil), rootA, rootB), ErrInvalid)
	other := publisherSet(1, nil)
	other.Fleet = "other"
	l.refused(setPublishers(t, other, authority().key), ErrInvalid)
	l.refused(&command.SetPublishers{Sealed: []byte{1}}, ErrInvalid)

	eff := l.apply(firstPublishers(t))
	if p, ok := eff.Results[0].(*PublisherSet); !ok || p.Number != 1 || p.By != "o1" || p.SetMS != start.UnixMilli() {
		t.Fatalf("result %+v", eff.Results[0])
	}
	if got := eventTypes(eff); !slices.Equal(got, []string{EventPublishersChanged}) {
		t.Errorf("events %v", got)
	}
	if r := decodeRecord[AuditRecord](t, eff.Records[0]); r.Action != "publishers.set" || r.Target != "1" || r.Detail["threshold"] != "2" {
		t.Errorf("audit %+v", r)
	}

	two := publisherSet(2, map[string]ed25519.PrivateKey{"bob": bob})
	l.refused(firstPublishers(t), ErrInvalid) // again
	l.refused(setPublishers(t, two, rootA), ErrInvalid)
	l.refused(setPublishers(t, two, rootA, rootA), ErrInvalid)
	l.refused(setPublishers(t, two, authority().key), ErrInvalid) // what the core alone signs is not enough any more
	l.refused(setPublishers(t, publisherSet(3, nil), rootA, rootB), ErrInvalid)
	l.ok(setPublishers(t, two, rootB, rootA))
	v := restore(t, l.snapshot()).View()
	set, err := v.PublishersInForce()
	if err != nil || set.Number != 2 || set.Publishers[0].Name != "bob" || v.NewestPublishers() != 2 {
		t.Errorf("in force: %+v, %v", set, err)
	}
	if p, ok := v.Publishers(1); !ok || p.Number != 1 {
		t.Error("the set before is gone")
	}
}

func TestSetsAreBounded(t *testing.T) {
	l := newLog(t)
	for n := range uint64(MaxSets) {
		l.state.view.publishers.put(&PublisherSet{Number: n + 1})
	}
	l.refused(firstPublishers(t), ErrInvalid)
}

func TestArtifacts(t *testing.T) {
	l := newLog(t)
	l.refused(addArtifact(t, release("app", 1), ada), ErrInvalid) // nobody may publish
	l.ok(firstPublishers(t))
	l.refused(addArtifact(t, release("app", 1), bob), seal.ErrPublisher)
	forged := addArtifact(t, release("app", 1), ada)
	forged.Release[len(forged.Release)-1] ^= 1
	l.refused(forged, ErrInvalid)

	eff := l.apply(addArtifact(t, release("app", 1), ada))
	x, ok := eff.Results[0].(*Artifact)
	if !ok || x.Title() != "app@1.1" || x.Publisher != "ada" || x.Signer != seal.PublisherKeyOf(public(ada)) || x.Size != 1<<20 || x.ManifestSize != 400 {
		t.Fatalf("result %+v", eff.Results[0])
	}
	if e := eff.Events[0]; e.Type != EventArtifactAdded || e.Data["artifact"] != x.Digest.String() || e.Data["name"] != "app" {
		t.Errorf("event %+v", e)
	}
	if got := l.ok(addArtifact(t, release("app", 1), ada)); got != x {
		t.Errorf("added again: %+v", got)
	}
	version, number := release("app", 2), release("app", 1)
	version.Version = "1.1"
	number.Version, number.Manifest = "1.1b", wire.DigestOf([]byte("other"))
	l.refused(addArtifact(t, version, ada), ErrExists)
	l.refused(addArtifact(t, number, ada), ErrExists)
	l.added("app", 2)
	l.added("tool", 1)
	v := restore(t, l.snapshot()).View()
	if y, ok := v.Artifact(x.Digest); !ok || !reflect.DeepEqual(x, y) {
		t.Errorf("restored %+v, want %+v", y, x)
	}
	if y, ok := v.ArtifactNamed("app@1.2"); !ok || y.Number != 2 || v.ArtifactCount() != 3 {
		t.Errorf("found %+v of %d", y, v.ArtifactCount())
	}
	if _, ok := v.ArtifactNamed("app@1.3"); ok {
		t.Error("found what is not there")
	}

	l.refused(&command.DeleteArtifact{Digest: wire.Digest{1}}, ErrNotFound)
	stale := &command.DeleteArtifact{Digest: x.Digest, By: command.Actor{Revision: x.Revision + 1}}
	l.refused(stale, ErrRevision)
	gone := &command.DeleteArtifact{Digest: x.Digest, By: command.Actor{Once: &command.Once{Key: [32]byte{1}}}}
	first, again := l.ok(gone), l.ok(gone)
	if !reflect.DeepEqual(first, again) {
		t.Errorf("deleted: %+v, repeated %+v", first, again)
	}
	if _, ok := l.state.View().Artifact(x.Digest); ok {
		t.Error("still there")
	}
}

func TestBadArtifacts(t *testing.T) {
	l := publishing(t)
	for name, spoil := range map[string]func(*seal.Release, *command.AddArtifact){
		"no number":     func(r *seal.Release, _ *command.AddArtifact) { r.Number = 0 },
		"no manifest":   func(r *seal.Release, _ *command.AddArtifact) { r.Manifest = wire.Digest{} },
		"no size":       func(r *seal.Release, _ *command.AddArtifact) { r.Size = 0 },
		"huge manifest": func(r *seal.Release, _ *command.AddArtifact) { r.Size = wire.MaxManifest + 1 },
		"name":          func(r *seal.Release, _ *command.AddArtifact) { r.Name = "../app" },
		"version":       func(r *seal.Release, _ *command.AddArtifact) { r.Version = "" },
		"kind":          func(_ *seal.Release, c *command.AddArtifact) { c.Kind = 9 },
		"no parts":      func(_ *seal.Release, c *command.AddArtifact) { c.Parts = nil },
		"many parts":    func(_ *seal.Release, c *command.AddArtifact) { c.Parts = make([]wire.Digest, maxParts+1) },
	} {
		r := release("app", 1)
		spoil(r, addArtifact(t, r, ada))
		c := addArtifact(t, r, ada)
		spoil(r, c)
		t.Run(name, func(t *testing.T) { l.t = t; l.refused(c, ErrInvalid) })
	}
	l.t = t
	l.refused(&command.AddArtifact{Release: make([]byte, maxRelease+1), Parts: make([]wire.Digest, 1)}, ErrInvalid)
	for n := range MaxArtifacts {
		l.state.view.artifacts.put(&Artifact{Digest: wire.DigestOf(fmt.Append(nil, n)), Name: "x", Version: fmt.Sprint(n), Number: uint64(n) + 1})
	}
	l.refused(addArtifact(t, release("app", 1), ada), ErrInvalid)
}

// When a publisher goes, another may sign what is there: devices want a release that a publisher of today signed.
func TestArtifactIsSignedAnew(t *testing.T) {
	l := publishing(t)
	m := l.enrolled(1)
	d := l.added("app", 1)
	l.ok(setPublishers(t, publisherSet(2, map[string]ed25519.PrivateKey{"bob": bob}), rootA, rootB))
	l.refused(&command.Assign{Device: m.id, Slot: "app", Verb: command.VerbSet, Artifact: d}, seal.ErrPublisher)
	l.now = start.Add(time.Hour)
	x, ok := l.ok(addArtifact(t, release("app", 1), bob)).(*Artifact)
	if !ok || x.Publisher != "bob" || x.Digest != d || x.AddedMS != start.UnixMilli() {
		t.Fatalf("artifact %+v", x)
	}
	l.ok(&command.Assign{Device: m.id, Slot: "app", Verb: command.VerbSet, Artifact: d})
}

// Who may do what about artifacts and publishers.
func TestPublishingPermissions(t *testing.T) {
	l := publishing(t)
	m := l.enrolled(1)
	for id, o := range map[string]command.Operator{
		"view": {Role: "viewer"}, "op": {Role: "operator"}, "here": {Role: "operator", Sites: []string{"plant-7"}}, "there": {Role: "admin", Sites: []string{"plant-8"}},
	} {
		o.ID, o.Name, o.Hash = id, id, [32]byte(wire.DigestOf([]byte(id)))
		l.ok(&command.CreateOperator{Operator: o})
	}
	l.now = start.Add(time.Minute)
	by := func(id string) command.Actor { return command.Actor{Operator: id} }
	add := func(id string) command.Command {
		c := addArtifact(t, release("app", 1), ada)
		c.By = by(id)
		return c
	}
	for _, id := range []string{"view", "here", "there"} {
		l.refused(add(id), ErrForbidden)
	}
	l.ok(add("op"))
	d := release("app", 1).Manifest
	two := func(id string) command.Command {
		c := setPublishers(t, publisherSet(2, map[string]ed25519.PrivateKey{"ada": ada}), rootA, rootB)
		c.By = by(id)
		return c
	}
	for _, id := range []string{"view", "op", "here", "there"} {
		l.refused(two(id), ErrForbidden)
	}
	l.ok(two("o1"))
	for _, id := range []string{"view", "there"} {
		l.refused(&command.Assign{By: by(id), Device: m.id, Slot: "app", Verb: command.VerbSet, Artifact: d}, ErrForbidden)
	}
	l.ok(&command.Assign{By: by("here"), Device: m.id, Slot: "app", Verb: command.VerbSet, Artifact: d})
	l.refused(&command.DeleteArtifact{By: by("here"), Digest: d}, ErrForbidden)
}
