package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// piece is a chunk of a text, as it is.
func piece(text string) pack.Chunk {
	return pack.Chunk{Digest: wire.DigestOf([]byte(text)), Stored: append([]byte{byte(wire.CodecRaw)}, text...)}
}

// packOf is a pack of texts.
func packOf(texts ...string) string {
	var b []byte
	for _, text := range texts {
		b = pack.Append(b, piece(text))
	}
	return string(b)
}

func missingBody(texts ...string) string {
	list := make([]string, len(texts))
	for i, text := range texts {
		list[i] = `"` + wire.DigestOf([]byte(text)).String() + `"`
	}
	return `{"digests":[` + strings.Join(list, ",") + `]}`
}

func TestContent(t *testing.T) {
	c := newCore(t)
	missing := func(texts ...string) []string {
		t.Helper()
		return ask[v1.MissingContent](c, http.MethodPost, "/v1/content/missing", missingBody(texts...), http.StatusOK).Missing
	}
	if got := missing("a", "b", "c"); len(got) != 3 {
		t.Errorf("missing %v", got)
	}
	for range 2 { // the second time changes nothing
		if got := ask[v1.StoredContent](c, http.MethodPost, "/v1/content", packOf("a", "c"), http.StatusOK); got.Stored != 2 {
			t.Errorf("stored %+v", got)
		}
	}
	if got := missing("a", "b", "c"); len(got) != 1 || got[0] != wire.DigestOf([]byte("b")).String() {
		t.Errorf("missing %v", got)
	}
	if got := missing("a"); got == nil {
		t.Error("nothing missing is null")
	}
}

// A pack that is wrong anywhere is refused as a whole.
func TestBadPacks(t *testing.T) {
	c := newCore(t)
	good := packOf("a", "b")
	other := piece("b")
	other.Digest[0] ^= 1
	empty := pack.Chunk{Digest: wire.DigestOf(nil), Stored: []byte{0}}
	huge := pack.Chunk{Digest: wire.DigestOf(nil), Stored: make([]byte, artifact.MaxStored+1)}
	codec := piece("b")
	codec.Stored[0] = 7
	for name, tc := range map[string]struct {
		body, kind string
		status     int
	}{
		"wrong digest":   {packOf("a") + string(pack.Append(nil, other)), octets, http.StatusUnprocessableEntity},
		"unknown codec":  {packOf("a") + string(pack.Append(nil, codec)), octets, http.StatusUnprocessableEntity},
		"truncated":      {good[:len(good)-1], octets, http.StatusUnprocessableEntity},
		"cut in a head":  {good[:len(good)-10], octets, http.StatusUnprocessableEntity},
		"trailing bytes": {good + "x", octets, http.StatusUnprocessableEntity},
		"empty chunk":    {packOf("a") + string(pack.Append(nil, empty)), octets, http.StatusUnprocessableEntity},
		"chunk too long": {packOf("a") + string(pack.Append(nil, huge)), octets, http.StatusUnprocessableEntity},
		"too large":      {strings.Repeat("x", pack.Max+1), octets, http.StatusRequestEntityTooLarge},
		"nothing":        {"", octets, http.StatusBadRequest},
		"JSON":           {good, "application/json", http.StatusUnsupportedMediaType},
	} {
		r := request(http.MethodPost, "/v1/content", tc.body)
		r.Header.Set("Content-Type", tc.kind)
		if w := c.do(r); w.Code != tc.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		} else {
			problem(t, w, tc.status)
		}
	}
	if got := ask[v1.MissingContent](c, http.MethodPost, "/v1/content/missing", missingBody("a", "b"), http.StatusOK).Missing; len(got) != 2 {
		t.Errorf("of refused packs something was stored: only %v is missing", got)
	}
	if len(c.disk.Files()) != 0 {
		t.Errorf("files %v", c.disk.Files())
	}
}

func TestContentQuestions(t *testing.T) {
	c := newCore(t)
	many := strings.Repeat(`"`+wire.DigestOf(nil).String()+`",`, maxAsked)
	for name, tc := range map[string]struct {
		body   string
		status int
	}{
		"as many as may be": {`{"digests":[` + strings.TrimSuffix(many, ",") + `]}`, http.StatusOK},
		"one too many":      {`{"digests":[` + many + `"` + wire.DigestOf(nil).String() + `"]}`, http.StatusUnprocessableEntity},
		"too large":         {`{"digests":[` + many + many + `""]}`, http.StatusRequestEntityTooLarge},
		"no digest":         {`{"digests":["abc"]}`, http.StatusUnprocessableEntity},
		"none":              {`{"digests":[]}`, http.StatusUnprocessableEntity},
	} {
		if w := c.do(request(http.MethodPost, "/v1/content/missing", tc.body)); w.Code != tc.status {
			t.Errorf("%s: %d %.200s", name, w.Code, w.Body)
		}
	}
}

// Without a majority of the core's nodes nothing is acknowledged, and the problem says that it may be tried again. Whether this node has stored
// it when the others have failed depends on who is faster.
func TestContentWithoutMajority(t *testing.T) {
	c := newCore(t)
	c.away = 2
	for path, body := range map[string]string{"/v1/content": packOf("a"), "/v1/content/missing": missingBody("a")} {
		w := c.do(request(http.MethodPost, path, body))
		p := problem(t, w, http.StatusServiceUnavailable)
		if p.Type != v1.ProblemUnavailable || !strings.Contains(p.Detail, " of 3 ") || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %+v", path, p)
		}
	}
}

func TestContentQuota(t *testing.T) {
	c := newCore(t)
	var texts []string
	for i := range 5 {
		texts = append(texts, fmt.Sprint(i)+strings.Repeat("x", 250_000))
	}
	p := problem(t, c.do(request(http.MethodPost, "/v1/content", packOf(texts...))), http.StatusInsufficientStorage)
	if p.Type != v1.ProblemFull || !strings.Contains(p.Detail, "content_quota") {
		t.Errorf("got %+v", p)
	}
}

// Few bodies that are large are in memory at a time.
func TestUploadsAreBounded(t *testing.T) {
	most := wide()
	most.uploads, most.uploadsEach = 3, 1
	c := newCoreWith(t, "admin", most)
	body := newSlow(packOf("a"))
	r := request(http.MethodPost, "/v1/content", "")
	r.Header.Set("Content-Type", octets)
	r.Body = body
	done := make(chan int)
	go func() { done <- c.do(r).Code }()
	<-body.begun
	p := problem(t, c.do(request(http.MethodPost, "/v1/content", packOf("b"))), http.StatusServiceUnavailable)
	if p.Type != v1.ProblemBusy {
		t.Errorf("got %+v", p)
	}
	ask[v1.List[v1.Site]](c, http.MethodGet, "/v1/sites", "", http.StatusOK) // others have their own places
	close(body.on)
	if code := <-done; code != http.StatusOK {
		t.Errorf("the first one: %d", code)
	}
	ask[v1.StoredContent](c, http.MethodPost, "/v1/content", packOf("b"), http.StatusOK)
}

// slow is a body that comes once it may.
type slow struct {
	*bytes.Reader
	begun, on chan struct{}
	first     bool
}

func newSlow(text string) *slow {
	return &slow{Reader: bytes.NewReader([]byte(text)), begun: make(chan struct{}), on: make(chan struct{}), first: true}
}

// Read implements io.Reader.
func (s *slow) Read(b []byte) (int, error) {
	if s.first {
		s.first = false
		close(s.begun)
		<-s.on
	}
	return s.Reader.Read(b)
}

// Close implements io.Closer.
func (*slow) Close() error { return nil }

// sent puts chunks where an operator's requests put them.
func (c *core) sent(list ...pack.Chunk) {
	c.t.Helper()
	v, err := content.Verify(list)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.server.Content.Put(c.t.Context(), v); err != nil {
		c.t.Fatal(err)
	}
}

// addBody makes an artifact known with a release of its.
func addBody(a *contenttest.Artifact, release []byte) string {
	add := v1.AddArtifact{Manifest: a.Digest.String(), Release: base64.StdEncoding.EncodeToString(release)}
	for _, p := range a.Parts {
		add.ManifestChunks = append(add.ManifestChunks, p.Digest.String())
	}
	b, err := json.Marshal(add)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestAddArtifact(t *testing.T) {
	c := newCore(t)
	c.publishing()
	a := contenttest.New(t, "app", 1, 5, 6_000) // its manifest has two parts
	good := addBody(a, a.Sign(t, ada))
	conflict := func(what string) {
		t.Helper()
		p := problem(t, c.do(request(http.MethodPost, "/v1/artifacts", good)), http.StatusConflict)
		if p.Type != v1.ProblemContent || !strings.Contains(p.Detail, "/v1/content/missing") {
			t.Errorf("%s: %+v", what, p)
		}
	}
	conflict("nothing was sent")
	c.sent(a.Parts...)
	conflict("no chunk was sent")
	c.sent(a.Chunks[:len(a.Chunks)-1]...)
	conflict("a patch was not sent")
	if c.View().ArtifactCount() != 0 {
		t.Error("an artifact was added")
	}
	c.sent(a.Chunks...)
	first := ask[v1.Artifact](c, http.MethodPost, "/v1/artifacts", good, http.StatusCreated)
	if first.Digest != a.Digest.String() || first.Name != "app" || first.Size != a.Manifest.Size() || first.Chunks != uint64(len(a.Chunks)) || first.Publisher != "ada" {
		t.Errorf("got %+v", first)
	}
	if again := ask[v1.Artifact](c, http.MethodPost, "/v1/artifacts", good, http.StatusCreated); !reflect.DeepEqual(again, first) {
		t.Errorf("the second time %+v, the first time %+v", again, first)
	}
}

// Nothing is added whose signature, manifest and parts do not fit together.
func TestAddArtifactRefused(t *testing.T) {
	c := newCore(t)
	a, b := contenttest.New(t, "app", 1, 5, 0), contenttest.New(t, "app", 2, 5, 0)
	if p := problem(t, c.do(request(http.MethodPost, "/v1/artifacts", addBody(a, a.Sign(t, ada)))), http.StatusUnprocessableEntity); !strings.Contains(p.Detail, "publishers") {
		t.Errorf("without publishers: %+v", p)
	}
	c.publishing()
	c.sent(append(a.All(), b.All()...)...)
	broken := contenttest.Raw(a.Bytes[:len(a.Bytes)-1])
	c.sent(broken)
	other := *a
	other.Digest, other.Parts, other.Bytes = broken.Digest, []pack.Chunk{broken}, a.Bytes[:len(a.Bytes)-1]
	renamed := *a
	manifest := *a.Manifest
	manifest.Name = "other"
	renamed.Manifest = &manifest
	longer := *a
	longer.Bytes = append(slices.Clip(a.Bytes), 0)
	mixed := *a
	mixed.Parts = b.Parts
	for name, body := range map[string]string{
		"signed by somebody else":   addBody(a, a.Release),
		"release of another":        addBody(a, b.Sign(t, ada)),
		"release of another name":   addBody(a, renamed.Sign(t, ada)),
		"release of another size":   addBody(a, longer.Sign(t, ada)),
		"parts of another":          addBody(&mixed, a.Sign(t, ada)),
		"manifest that is broken":   addBody(&other, other.Sign(t, ada)),
		"release that is no base64": strings.Replace(addBody(a, nil), `"release":""`, `"release":"*"`, 1),
	} {
		if w := c.do(request(http.MethodPost, "/v1/artifacts", body)); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if c.View().ArtifactCount() != 0 {
		t.Error("an artifact was added")
	}
	c.away = 2
	if p := problem(t, c.do(request(http.MethodPost, "/v1/artifacts", addBody(a, a.Sign(t, ada)))), http.StatusServiceUnavailable); p.Type != v1.ProblemUnavailable {
		t.Errorf("without a majority: %+v", p)
	}
}
