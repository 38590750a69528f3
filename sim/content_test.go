package sim

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
)

// sendPack sends chunks to a node and returns the answer's status and text.
func (p *plant) sendPack(n int, list []pack.Chunk) (int, string) {
	p.t.Helper()
	var b []byte
	for _, c := range list {
		b = pack.Append(b, c)
	}
	r := httptest.NewRequestWithContext(p.ctx, http.MethodPost, "/v1/content", bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/octet-stream")
	w, err := p.Core(n).Do(r)
	p.must(err)
	return w.Code, w.Body.String()
}

// holds counts those of the chunks that a node has on its disk.
func (p *plant) holds(n int, list []pack.Chunk) (there int) {
	for i := range list {
		hex := list[i].Digest.String()
		if _, err := os.Stat(filepath.Join(p.Core(n).Dir(), "content", hex[:2], hex)); err == nil {
			there++
		}
	}
	return there
}

func (p *plant) crash(n int) {
	c := p.Core(n)
	c.Process().Kill()
	p.gone(c.Process())
}

// With one of three core nodes down an artifact is taken, and the node gets its content when it is back; with two down nothing is taken.
func TestContentOutlivesNodes(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 30*time.Second, func(p *plant) {
		p.grow(3)
		payload, err := wire.Marshal(contenttest.Set("sim"))
		p.must(err)
		p.must(p.Call(p.ctx, nil, http.MethodPost, "/v1/publishers", v1.SetPublishers{Payload: base64.StdEncoding.EncodeToString(payload)}))
		a := contenttest.New(t, "app", 1, 100, 6_000)
		p.crash(3)
		p.settled(3)
		if code, text := p.sendPack(1, a.All()); code != http.StatusOK {
			t.Fatalf("%d %s", code, text)
		}
		add := v1.AddArtifact{Manifest: a.Digest.String(), Release: base64.StdEncoding.EncodeToString(a.Release)}
		for _, part := range a.Parts {
			add.ManifestChunks = append(add.ManifestChunks, part.Digest.String())
		}
		var known v1.Artifact
		p.must(p.Core(2).Call(p.ctx, &known, http.MethodPost, "/v1/artifacts", add))
		if known.Digest != a.Digest.String() || p.holds(1, a.All()) != len(a.All()) || p.holds(2, a.All()) != len(a.All()) || p.holds(3, a.All()) != 0 {
			t.Errorf("%+v; the nodes hold %d, %d and %d chunks", known, p.holds(1, a.All()), p.holds(2, a.All()), p.holds(3, a.All()))
		}
		p.restart(p.Core(3))
		for range 60 {
			if p.holds(3, a.All()) == len(a.All()) {
				break
			}
			p.sleep(time.Second)
		}
		w, err := p.Core(3).Do(httptest.NewRequestWithContext(p.ctx, http.MethodGet, "/metrics", http.NoBody))
		p.must(err)
		if p.holds(3, a.All()) != len(a.All()) || !strings.Contains(w.Body.String(), "\nholdfast_core_content_chunks 103\n") {
			t.Errorf("core-3 holds %d of %d chunks", p.holds(3, a.All()), len(a.All()))
		}
		p.crash(2)
		p.crash(3)
		// Which of the two it is depends on whether this node led: either says that nothing was taken.
		code, text := p.sendPack(1, []pack.Chunk{contenttest.Raw([]byte("more"))})
		if code != http.StatusServiceUnavailable || !strings.Contains(text, v1.ProblemUnavailable) && !strings.Contains(text, v1.ProblemNotLeader) {
			t.Errorf("with two nodes down: %d %s", code, text)
		}
		p.restart(p.Core(2))
		p.restart(p.Core(3))
	})
}
