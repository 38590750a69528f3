package cli

import (
	"encoding/base64"
	"net/http"
	"os"
	"strings"
	"testing"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// takingSets is a core that seals set 1 and answers for whatever else comes.
func takingSets(t *testing.T, asked *v1.SetPublishers) *fakeCore {
	core := newFleet()
	core.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/publishers" {
			return false
		}
		read(r, asked)
		p := v1.PublisherSet{Number: 2, Threshold: 1, Roots: []string{digestA}, Sealed: asked.Sealed, SetAt: fakeNow}
		if asked.Payload != "" {
			payload, err := base64.StdEncoding.DecodeString(asked.Payload)
			if err != nil {
				t.Error(err)
			}
			set := new(seal.PublisherSet)
			if err := wire.Unmarshal(payload, set); err != nil {
				t.Error(err)
			}
			signature, err := seal.SignPublisherSet(set, fleetAuthority)
			if err != nil {
				t.Error(err)
			}
			sealed, err := seal.JoinPublisherSet(signature)
			if err != nil {
				t.Error(err)
			}
			p.Number, p.Sealed = set.Number, base64.StdEncoding.EncodeToString(sealed)
		}
		answer(w, http.StatusCreated, p)
		return true
	}
	return core
}

// Set 1 is pushed bare, and its file then holds it as the core sealed it, so that the next set can follow.
func TestPushPublishers(t *testing.T) {
	var asked v1.SetPublishers
	u := at(t, takingSets(t, &asked).serve(t))
	w := newWorkshop(t)
	for _, k := range []string{"root", "ci", "release"} {
		w.key(t, k)
	}
	w.must(t, "publishers", "new", w.path("set-1"), "--fleet", "acme", "--root", w.path("root.pub"), "--publisher", "ci="+w.path("ci.pub"))
	if said := u.must(t, "publishers", "push", w.path("set-1")); !strings.Contains(said, "set 1 of publishers is in force") || asked.Payload == "" || asked.Sealed != "" {
		t.Errorf("said %q, asked %+v", said, asked)
	}
	w.must(t, "publishers", "new", w.path("set-2"), "--from", w.path("set-1"), "--publisher", "release="+w.path("release.pub"))
	if r := u.run(t, "publishers", "push", w.path("set-2")); r.code != exitUsage || !strings.Contains(r.err, "nobody signed it") {
		t.Errorf("an unsigned set 2: exit %d, %s", r.code, r.err)
	}
	w.must(t, "publishers", "sign", w.path("set-2"), "--from", w.path("set-1"), "--key", w.path("root"))
	asked = v1.SetPublishers{}
	u.must(t, "publishers", "push", w.path("set-2"))
	sealed, err := os.ReadFile(w.path("set-2"))
	if err != nil {
		t.Fatal(err)
	}
	if asked.Payload != "" || asked.Sealed != base64.StdEncoding.EncodeToString(sealed) {
		t.Errorf("asked %+v", asked)
	}
}

func TestByteRate(t *testing.T) {
	for s, want := range map[string]uint64{"none": 0, "2MiB/s": 2 << 20, "1.5KiB/s": 1536, "500kB/s": 500_000, "7B/s": 7, "1GiB/s": 1 << 30, "9/s": 9} {
		if got, err := byteRate("rate", s); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "2", "2MiB", "MiB/s", "-1MiB/s", "0.1B/s", "NaN/s", "Inf/s", "1e30GiB/s", "2 MiB per s"} {
		if got, err := byteRate("rate", s); err == nil {
			t.Errorf("%q is taken for %d", s, got)
		}
	}
}
