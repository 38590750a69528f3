package registry

import (
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Bounds of what the registry keeps of artifacts.
const (
	MaxArtifacts = 10_000
	MaxSets      = 64 // sets of publishers

	maxRelease = 4 << 10                             // bytes of a sealed release
	maxParts   = 4 * wire.MaxManifest / wire.MaxPart // of a manifest; parts may be smaller than the largest
)

// ErrInUse says that what is to go is still needed.
var ErrInUse = errors.New("still in use")

// An Artifact is one version of what devices can be assigned. Its content is not here: the core's nodes hold it as chunks.
type Artifact struct {
	Digest       wire.Digest       `cbor:"1,keyasint"` // of the manifest
	Name         string            `cbor:"2,keyasint"`
	Version      string            `cbor:"3,keyasint"`
	Number       uint64            `cbor:"4,keyasint"` // of the release
	Kind         artifact.Kind     `cbor:"5,keyasint"`
	Size         uint64            `cbor:"6,keyasint"` // bytes of its files
	ManifestSize uint64            `cbor:"7,keyasint"` // bytes
	Release      []byte            `cbor:"8,keyasint"` // as its publisher signed it
	Signer       seal.PublisherKey `cbor:"9,keyasint"`
	Publisher    string            `cbor:"10,keyasint"` // name of the signer in the set that held when it was added
	Chunks       uint64            `cbor:"11,keyasint"` // distinct ones that the manifest names
	Parts        []wire.Digest     `cbor:"12,keyasint"` // chunks that make up the manifest's bytes, in order
	AddedMS      int64             `cbor:"13,keyasint"` // log time
	By           string            `cbor:"14,keyasint"` // id of the operator who added it
	Revision     uint64            `cbor:"15,keyasint"` // number of the audit record of the newest change
}

// Title is the artifact's name and version as people write them: NAME@VERSION.
func (x *Artifact) Title() string { return x.Name + "@" + x.Version }

// A PublisherSet is one set of publishers that was in force from its log time on, until the next. All are kept: whoever comes
// late goes through them one by one.
type PublisherSet struct {
	Number uint64 `cbor:"1,keyasint"`
	Sealed []byte `cbor:"2,keyasint"` // see seal.OpenPublisherSet
	SetMS  int64  `cbor:"3,keyasint"` // log time
	By     string `cbor:"4,keyasint"` // id of an operator
}

// Open reads the set. It was verified when it was taken in.
func (p *PublisherSet) Open() (*seal.PublisherSet, error) { return seal.PeekPublisherSet(p.Sealed) }

func newPublishers() table[uint64, PublisherSet] {
	return newTable(snapPublishers, cmp.Compare[uint64], func(p *PublisherSet) uint64 { return p.Number },
		func(n uint64) *PublisherSet { return &PublisherSet{Number: n} })
}

func newArtifacts() table[wire.Digest, Artifact] {
	return newTable(snapArtifact, wire.Digest.Compare, func(x *Artifact) wire.Digest { return x.Digest },
		func(d wire.Digest) *Artifact { return &Artifact{Digest: d} })
}

// Artifact finds an artifact by the digest of its manifest.
func (v View) Artifact(d wire.Digest) (*Artifact, bool) { return v.artifacts.get(d) }

// Artifacts visits the artifacts whose digests come after the given one, in order of digest, until f returns false.
func (v View) Artifacts(after wire.Digest, f func(*Artifact) bool) { v.artifacts.after(after, f) }

// ArtifactNamed finds an artifact by NAME@VERSION.
func (v View) ArtifactNamed(title string) (x *Artifact, ok bool) {
	v.artifacts.all(func(o *Artifact) bool {
		if o.Title() == title {
			x, ok = o, true
		}
		return !ok
	})
	return x, ok
}

// ArtifactsByName visits the artifacts in order of name and number.
func (v View) ArtifactsByName(f func(*Artifact) bool) {
	all := make([]*Artifact, 0, v.artifacts.len())
	v.artifacts.all(func(x *Artifact) bool { all = append(all, x); return true })
	slices.SortFunc(all, func(x, y *Artifact) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Number, y.Number)) })
	for _, x := range all {
		if !f(x) {
			return
		}
	}
}

// AllPublishers visits the sets of publishers in order of number.
func (v View) AllPublishers(f func(*PublisherSet) bool) { v.publishers.all(f) }

// ArtifactCount is the number of artifacts.
func (v View) ArtifactCount() int { return v.artifacts.len() }

// Publishers finds a set of publishers by its number.
func (v View) Publishers(number uint64) (*PublisherSet, bool) { return v.publishers.get(number) }

// NewestPublishers is the number of the set of publishers that is in force; 0: there is none.
func (v View) NewestPublishers() uint64 { return uint64(v.publishers.len()) } //nolint:gosec // G115: sets are numbered from 1 without gaps

// PublishersInForce is the newest set of publishers. The error is ErrInvalid when there is none.
func (v View) PublishersInForce() (*seal.PublisherSet, error) {
	p, ok := v.publishers.get(v.NewestPublishers())
	if !ok {
		return nil, fmt.Errorf("no publishers are set, so that nobody may publish: %w", ErrInvalid)
	}
	return p.Open()
}

// AuthorityKey is the public key of the fleet's authority.
func (f *Fleet) AuthorityKey() (ed25519.PublicKey, error) {
	cert, err := x509.ParseCertificate(f.Authority.Cert)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate: %w", err)
	}
	pub, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the authority's key is %T, want ed25519", cert.PublicKey)
	}
	return pub, nil
}

// setPublishers takes in the next set of publishers. Result: *PublisherSet.
func (a *applier) setPublishers(c *command.SetPublishers) any {
	if a.view.publishers.len() >= MaxSets {
		return fmt.Errorf("there are %d sets of publishers, and more are not kept: %w", MaxSets, ErrInvalid)
	}
	authority, err := a.view.fleet.AuthorityKey()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var before *seal.PublisherSet
	if n := a.view.NewestPublishers(); n > 0 {
		if before, err = a.view.PublishersInForce(); err != nil {
			return fmt.Errorf("set of publishers %d: %w", n, err)
		}
	}
	set, err := seal.OpenPublisherSet(c.Sealed, a.view.fleet.Name, before, authority)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	p := &PublisherSet{Number: set.Number, Sealed: c.Sealed, SetMS: a.ms, By: c.By.Operator}
	a.view.publishers.put(p)
	a.event(EventPublishersChanged, Subject{}, map[string]string{"number": u64(p.Number), "by": c.By.Operator})
	return p
}

// OpenRelease verifies a release by the publishers in force, and names the one who signed it. The error is ErrInvalid and says what
// to do.
func (v View) OpenRelease(sealed []byte) (r *seal.Release, publisher string, err error) {
	set, err := v.PublishersInForce()
	if err != nil {
		return nil, "", err
	}
	r, err = seal.OpenRelease(sealed, set)
	if errors.Is(err, seal.ErrPublisher) {
		return nil, "", fmt.Errorf("%w: %w: let one who is sign it", ErrInvalid, err)
	} else if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	_, signer, err := seal.PeekRelease(sealed)
	for _, p := range set.Publishers {
		if seal.PublisherKeyOf(p.Key) == signer {
			return r, p.Name, err
		}
	}
	return r, "", err
}

// addArtifact makes an artifact known. One that is known already gets the release, if that is another: of the publishers who
// signed it some may have gone since. Result: *Artifact.
func (a *applier) addArtifact(c *command.AddArtifact) any {
	if len(c.Release) > maxRelease || len(c.Parts) == 0 || len(c.Parts) > maxParts {
		return fmt.Errorf("release of %d bytes, limit %d; manifest in %d parts, want 1 to %d: %w", len(c.Release), maxRelease, len(c.Parts), maxParts, ErrInvalid)
	}
	r, publisher, err := a.view.OpenRelease(c.Release)
	if err != nil {
		return err
	}
	if err := checkRelease(r, c); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	_, signer, _ := seal.PeekRelease(c.Release) // it was opened
	x := &Artifact{
		Digest: r.Manifest, Name: r.Name, Version: r.Version, Number: r.Number, Kind: artifact.Kind(c.Kind), Size: c.Size, ManifestSize: r.Size,
		Release: c.Release, Signer: signer, Publisher: publisher, Chunks: c.Chunks, Parts: c.Parts, AddedMS: a.ms, By: c.By.Operator, Revision: a.revision(),
	}
	if err := a.newToAll(x); err != nil {
		return err
	}
	if old, ok := a.view.artifacts.get(x.Digest); ok {
		if old.Signer == x.Signer {
			return old
		}
		x.AddedMS = old.AddedMS
	} else if a.view.artifacts.len() >= MaxArtifacts {
		return fmt.Errorf("there are %d artifacts, and more are not kept: delete some: %w", MaxArtifacts, ErrInvalid)
	}
	a.view.artifacts.put(x)
	a.event(EventArtifactAdded, Subject{}, x.named(map[string]string{"publisher": x.Publisher, "by": c.By.Operator}))
	return x
}

// checkRelease holds what is added against rules that every device holds it against, too.
func checkRelease(r *seal.Release, c *command.AddArtifact) error {
	if r.Number == 0 || r.Manifest.IsZero() || r.Size == 0 || r.Size > wire.MaxManifest {
		return fmt.Errorf("release %d of a manifest of %d bytes, want one from 1 of up to %d", r.Number, r.Size, wire.MaxManifest)
	}
	if k := artifact.Kind(c.Kind); k != artifact.KindTree && k != artifact.KindFile {
		return fmt.Errorf("artifact of %v: not known", k)
	}
	return errors.Join(artifact.CheckName(r.Name), artifact.CheckVersion(r.Version))
}

// newToAll refuses an artifact whose name and version, or name and number, another has: both tell versions apart.
func (a *applier) newToAll(x *Artifact) (err error) {
	a.view.artifacts.all(func(o *Artifact) bool {
		if o.Digest == x.Digest || o.Name != x.Name {
			return true
		}
		if o.Version == x.Version {
			err = fmt.Errorf("%s: %w, with the digest %v", x.Title(), ErrExists, o.Digest)
		} else if o.Number == x.Number {
			err = fmt.Errorf("%s has the number %d that %s has: %w", x.Title(), x.Number, o.Title(), ErrExists)
		}
		return err == nil
	})
	return err
}

// deleteArtifact forgets an artifact. Result: *Artifact, as it was.
func (a *applier) deleteArtifact(c *command.DeleteArtifact) any {
	x, ok := a.view.artifacts.get(c.Digest)
	if !ok {
		return fmt.Errorf("artifact %v: %w", c.Digest, ErrNotFound)
	}
	if n, first := a.view.AssignedTo(c.Digest); n > 0 {
		return fmt.Errorf("%s is assigned to %d devices, such as %v: %w", x.Title(), n, first.ID, ErrInUse)
	}
	a.view.artifacts.delete(c.Digest)
	a.event(EventArtifactDeleted, Subject{}, x.named(map[string]string{"by": c.By.Operator}))
	return x
}

// named adds what names the artifact to the data of an event or audit record. x may be nil.
func (x *Artifact) named(data map[string]string) map[string]string {
	if x != nil {
		data["artifact"], data["name"], data["version"] = x.Digest.String(), x.Name, x.Version
	}
	return data
}

// publishing is the deed of a command about artifacts and publishers. They belong to the fleet as a whole: who is limited to sites
// assigns what there is. Who may publish is for administrators to say.
func (a *applier) publishing(c command.Operated) (deed, error) {
	switch c := c.(type) {
	case *command.AddArtifact:
		r, _, err := seal.PeekRelease(c.Release)
		if err != nil {
			return deed{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return deed{
			action: ActOperate, scope: ScopeFleet(), name: "artifact.add", target: r.Manifest.String(), do: func() any { return a.addArtifact(c) },
			detail: map[string]string{"name": r.Name, "version": r.Version, "number": u64(r.Number)},
		}, nil
	case *command.DeleteArtifact:
		x, _ := a.view.artifacts.get(c.Digest) // repeated, the request gets the result of the first time
		return deed{
			action: ActOperate, scope: ScopeFleet(), name: "artifact.delete", target: c.Digest.String(), artRev: c.Digest,
			do: func() any { return a.deleteArtifact(c) }, detail: x.named(map[string]string{}),
		}, nil
	case *command.SetPublishers:
		p, err := seal.PeekPublisherSet(c.Sealed)
		if err != nil {
			return deed{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return deed{
			action: ActAdminister, scope: ScopeFleet(), name: "publishers.set", target: u64(p.Number), do: func() any { return a.setPublishers(c) },
			detail: map[string]string{"publishers": u64(uint64(len(p.Publishers))), "roots": u64(uint64(len(p.Roots))), "threshold": u64(uint64(p.Threshold))},
		}, nil
	}
	return deed{}, fmt.Errorf("%T: %w", c, ErrForbidden)
}
