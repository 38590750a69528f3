package cli

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/artifact/build"
)

// A contentCore takes content as a core does, from several nodes' servers.
type contentCore struct {
	t *testing.T

	mu     sync.Mutex
	stored map[string]bool
	packs  int
	added  []v1.AddArtifact
	lose   string // digest that is gone once, when the artifact is made known
	status int    // what packs are answered with; 0: they are taken
	dying  direct // if it is set, the node that takes the next pack dies in the middle of it, and is no more in this network
}

func (c *contentCore) hook(w http.ResponseWriter, r *http.Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Error(err)
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/content/missing":
		var ask v1.AskContent
		c.decode(body, &ask)
		out := v1.MissingContent{Missing: []string{}}
		for _, d := range ask.Digests {
			if !c.stored[d] {
				out.Missing = append(out.Missing, d)
			}
		}
		answer(w, http.StatusOK, out)
	case "POST /v1/content":
		if c.dying != nil {
			delete(c.dying, r.Host)
			c.dying = nil
			panic(http.ErrAbortHandler)
		}
		c.take(w, r, body)
	case "POST /v1/artifacts":
		var add v1.AddArtifact
		c.decode(body, &add)
		if c.lose != "" {
			delete(c.stored, c.lose)
			c.lose = ""
			problemOf(w, http.StatusConflict, v1.ProblemContent, "1 chunks are not stored")
			return true
		}
		c.added = append(c.added, add)
		answer(w, http.StatusCreated, v1.Artifact{Digest: add.Manifest})
	default:
		return false
	}
	return true
}

func (c *contentCore) decode(body []byte, v any) {
	if err := json.Unmarshal(body, v); err != nil {
		c.t.Error(err)
	}
}

func (c *contentCore) take(w http.ResponseWriter, r *http.Request, body []byte) {
	if c.status != 0 {
		problemOf(w, c.status, v1.ProblemFull, "content_quota")
		return
	}
	list, err := pack.Read(body)
	if err != nil || r.Header.Get("Content-Type") != "application/octet-stream" || len(body) > pushPack {
		c.t.Errorf("pack of %d bytes, %s: %v", len(body), r.Header.Get("Content-Type"), err)
	}
	c.packs++
	for _, x := range list {
		codec, data, err := artifact.SplitStored(x.Stored)
		if err == nil {
			_, err = artifact.OpenChunk(x.Digest, codec, data)
		}
		if err != nil {
			c.t.Error(err)
		}
		c.stored[x.Digest.String()] = true
	}
	answer(w, http.StatusOK, v1.StoredContent{Stored: len(list)})
}

func problemOf(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v1.Problem{Type: kind, Status: status, Detail: detail}) //nolint:errcheck,errchkjson // the test sees what came
}

// built makes a signed artifact of 6 MiB that does not get smaller, and returns its directory.
func built(t *testing.T, w *workshop) string {
	t.Helper()
	w.key(t, "ci.key")
	b := make([]byte, 6<<20)
	seed := wire.DigestOf(nil)
	for i := 0; i < len(b); i += len(seed) {
		copy(b[i:], seed[:])
		seed = wire.DigestOf(seed[:])
	}
	if err := os.WriteFile(filepath.Join(w.source, "big"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	out := w.path("out")
	w.must(t, "artifacts", "build", w.source, "--manifest", w.manifest, "--out", out)
	w.fails(t, exitUsage, "is not signed", "artifacts", "push", out)
	w.must(t, "artifacts", "sign", out, "--key", w.path("ci.key"))
	return out
}

func TestArtifactsPush(t *testing.T) {
	w := newWorkshop(t)
	out := built(t, w)
	d, err := build.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	core := &contentCore{t: t, stored: make(map[string]bool)}
	network, nodes := three()
	for _, n := range nodes {
		n.hook = core.hook
	}
	w.env["HOME"] = over(t, network, "core-2:8443").home
	w.network = network
	core.dying = network
	p := into[pushed](t, w.must(t, "artifacts", "push", out, "-o", "json"))
	if p.Digest != d.Digest.String() || p.Chunks == 0 || p.Sent != p.Chunks || p.There != 0 || p.Bytes < 6<<20 || p.Name != "camera" || p.Release != 17 {
		t.Errorf("%+v", p)
	}
	if core.packs != 2 || len(core.stored) != p.Chunks {
		t.Errorf("%d packs, %d chunks", core.packs, len(core.stored))
	}
	if len(core.added) != 1 || core.added[0].Manifest != p.Digest || core.added[0].Release != base64.StdEncoding.EncodeToString(d.Release) ||
		len(core.added[0].ManifestChunks) != 1 || !core.stored[core.added[0].ManifestChunks[0]] {
		t.Errorf("%+v", core.added)
	}

	// What is there is not sent again, and what is lost meanwhile is.
	core.lose = core.added[0].ManifestChunks[0]
	if said := w.must(t, "artifacts", "push", out); !strings.Contains(said, "chunks were there, 1 sent") || !strings.Contains(said, p.Digest) {
		t.Errorf("said %q", said)
	}
	if core.packs != 3 {
		t.Errorf("%d packs", core.packs)
	}

	clear(core.stored)
	core.status = http.StatusInsufficientStorage
	w.fails(t, exitFailure, "content_quota", "artifacts", "push", out)
	core.status = 0
	for x := range d.Chunks() {
		if err := os.WriteFile(filepath.Join(out, "chunks", x.Digest.String()), []byte("\x00damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		break
	}
	w.fails(t, exitUsage, "build it again", "artifacts", "push", out)
}

// The bar is as long as the work is far, also when there is none.
func TestMeter(t *testing.T) {
	for _, tc := range []struct {
		n, total int
		want     string
	}{
		{0, 0, "[------------------------------]   0 %  0 of 0 chunks sent, 3 MiB"},
		{1, 2, "[###############---------------]  50 %  1 of 2 chunks sent, 3 MiB"},
		{2, 2, "[##############################] 100 %  2 of 2 chunks sent, 3 MiB"},
	} {
		if got := (&meter{what: "chunks sent", total: tc.total}).bar(tc.n, 3<<20); got != tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}
