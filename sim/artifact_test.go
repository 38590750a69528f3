package sim

import (
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// trust has the fleet trust the publisher of package contenttest.
func (p *plant) trust() {
	p.t.Helper()
	payload, err := wire.Marshal(contenttest.Set("sim"))
	p.must(err)
	p.must(p.Call(p.ctx, nil, http.MethodPost, "/v1/publishers", v1.SetPublishers{Payload: base64.StdEncoding.EncodeToString(payload)}))
}

// A release is an artifact of one file, which does not compress.
type release struct {
	*contenttest.Artifact
	file string
}

// release makes one of n chunks of so many bytes each, which changes make what else it is to be. The core does not know it.
func (p *plant) release(number uint64, n, size int, changes ...func(*artifact.Manifest)) *release {
	p.t.Helper()
	b := make([]byte, n*size)
	src := rand.NewChaCha8([32]byte{byte(number)})
	src.Read(b) //nolint:errcheck // never fails
	e := artifact.Entry{Path: "app", Type: artifact.TypeFile, Mode: 0o755, Size: uint64(len(b)), Digest: wire.DigestOf(b)}
	r := &release{&contenttest.Artifact{}, string(b)}
	for c := range slices.Chunk(b, size) {
		raw := contenttest.Raw(c)
		e.Chunks.Add(artifact.Chunk{Digest: raw.Digest, Size: uint32(len(c))})
		r.Chunks = append(r.Chunks, raw)
	}
	r.Manifest = &artifact.Manifest{
		Format: artifact.Format, Name: "app", Version: "1." + string('0'+rune(number)), Number: number, Kind: artifact.KindTree, Entries: []artifact.Entry{e},
		StartMS: 10_000, SoakMS: 3_000, Health: []artifact.Check{{Kind: artifact.CheckFile, Path: "app"}},
	}
	for _, change := range changes {
		change(r.Manifest)
	}
	var err error
	r.Bytes, r.Digest, err = r.Manifest.Encode()
	p.must(err)
	for part := range slices.Chunk(r.Bytes, wire.MaxPart) {
		r.Parts = append(r.Parts, contenttest.Raw(part))
	}
	r.Release = r.Sign(p.t, contenttest.Key(11))
	return r
}

// publish makes a release and brings it to the core.
func (p *plant) publish(number uint64, n, size int, changes ...func(*artifact.Manifest)) *release {
	p.t.Helper()
	r := p.release(number, n, size, changes...)
	for some := range slices.Chunk(r.All(), 50) {
		if code, text := p.sendPack(1, some); code != http.StatusOK {
			p.t.Fatalf("%d %s", code, text)
		}
	}
	add := v1.AddArtifact{Manifest: r.Digest.String(), Release: base64.StdEncoding.EncodeToString(r.Release)}
	for _, part := range r.Parts {
		add.ManifestChunks = append(add.ManifestChunks, part.Digest.String())
	}
	p.must(p.Call(p.ctx, nil, http.MethodPost, "/v1/artifacts", add))
	return r
}

// assign has a device run a release in the slot app.
func (p *plant) assign(a *Agent, r *release) {
	p.t.Helper()
	p.must(p.Call(p.ctx, nil, http.MethodPut, "/v1/devices/"+a.ID+"/slots/app", v1.SetSlot{Artifact: r.Digest.String()}))
}

// runs tells whether a release is what current points to, to the byte.
func (p *plant) runs(a *Agent, r *release) bool {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.Dir(), "slots", "app", "current", "app"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	return err == nil && string(b) == r.file
}

// slot is what the core knows that a device stated last of the slot app: state and reason.
func (p *plant) slot(a *Agent) string {
	p.t.Helper()
	var d v1.Device
	p.must(p.Call(p.ctx, &d, http.MethodGet, "/v1/devices/"+a.ID, nil))
	for _, s := range d.Reported.Slots {
		if s.Slot == "app" {
			return strings.TrimSpace(s.State + " " + s.Reason)
		}
	}
	return ""
}
