package api

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// ada publishes, and her key is also the only root key.
var ada = ed25519.NewKeyFromSeed(slices.Repeat([]byte{7}, ed25519.SeedSize))

func publicOf(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) } //nolint:forcetypeassert // an ed25519 key's

func publisherSetOf(n uint64) *seal.PublisherSet {
	return &seal.PublisherSet{
		Format: seal.PublisherSetFormat, Fleet: "acme", Number: n, Roots: [][]byte{publicOf(ada)}, Threshold: 1,
		Publishers: []seal.Publisher{{Name: "ada", Key: publicOf(ada)}},
	}
}

func sealSet(p *seal.PublisherSet, key ed25519.PrivateKey) ([]byte, error) {
	sig, err := seal.SignPublisherSet(p, key)
	if err != nil {
		return nil, err
	}
	return seal.JoinPublisherSet(sig)
}

// nextSet is set 2 as a request carries it.
func nextSet(tb testing.TB) string {
	tb.Helper()
	b, err := sealSet(publisherSetOf(2), ada)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// publishing lets ada publish.
func (c *core) publishing() {
	c.t.Helper()
	b, err := sealSet(publisherSetOf(1), authority)
	if err != nil {
		c.t.Fatal(err)
	}
	c.commit(&command.SetPublishers{By: byAdmin, Sealed: b})
}

// artifact adds version 1.n of an artifact and returns its digest.
func (c *core) artifact(name string, n uint64) wire.Digest {
	c.t.Helper()
	d := wire.DigestOf(fmt.Append(nil, name, n))
	release, err := seal.SealRelease(&seal.Release{
		Format: seal.ReleaseFormat, Name: name, Version: fmt.Sprintf("1.%d", n), Number: n, Manifest: d, Size: 300,
	}, ada)
	if err != nil {
		c.t.Fatal(err)
	}
	c.commit(&command.AddArtifact{By: byAdmin, Release: release, Parts: []wire.Digest{{1}}, Kind: 1, Size: 200 << 20, Chunks: 3200})
	return d
}

func TestArtifacts(t *testing.T) {
	c := newCore(t)
	c.publishing()
	two, one, tool := c.artifact("app", 2), c.artifact("app", 1), c.artifact("tool", 10)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	c.commit(&command.Assign{By: byAdmin, Device: m.id, Slot: "a", Verb: command.VerbSet, Artifact: one})
	c.commit(&command.Assign{By: byAdmin, Device: m.id, Slot: "b", Verb: command.VerbSet, Artifact: one})
	var got []string
	for cursor := ""; ; {
		page := ask[v1.List[v1.Artifact]](c, http.MethodGet, "/v1/artifacts?limit=1&cursor="+cursor, "", http.StatusOK)
		for i := range page.Items {
			got = append(got, page.Items[i].Digest)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if want := []string{one.String(), two.String(), tool.String()}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if l := ask[v1.List[v1.Artifact]](c, http.MethodGet, "/v1/artifacts?name=tool", "", http.StatusOK).Items; len(l) != 1 || l[0].Name != "tool" {
		t.Errorf("of one name: %+v", l)
	}
	for _, id := range []string{one.String(), one.String()[:8], "app@1.1"} {
		x := ask[v1.Artifact](c, http.MethodGet, "/v1/artifacts/"+id, "", http.StatusOK)
		if x.Digest != one.String() || x.Name != "app" || x.Version != "1.1" || x.Number != 1 || x.Kind != "tree" || x.Size != 200<<20 || x.Devices != 1 ||
			x.Publisher != "ada" || x.AddedBy != "op-1" || !x.AddedAt.Equal(start) || x.Chunks != 3200 || x.Release == "" {
			t.Errorf("%s: %+v", id, x)
		}
	}
	limited := c.operator("op-2", registry.RoleViewer, "plant-8")
	if x := read[v1.Artifact](t, c.do(as(limited, request(http.MethodGet, "/v1/artifacts/app@1.1", ""))), http.StatusOK); x.Devices != 0 {
		t.Errorf("an operator of another site hears of %d devices", x.Devices)
	}
	p := problem(t, c.do(request(http.MethodDelete, "/v1/artifacts/app@1.1", "")), http.StatusConflict)
	if !strings.Contains(p.Detail, m.id.String()) || p.Type != v1.ProblemConflict {
		t.Errorf("deleted while assigned: %+v", p)
	}
	r := request(http.MethodDelete, "/v1/artifacts/tool@1.10", "")
	r.Header.Set("If-Match", c.do(request(http.MethodGet, "/v1/artifacts/tool@1.10", "")).Header().Get("ETag"))
	if x := read[v1.Artifact](t, c.do(r), http.StatusOK); x.Name != "tool" {
		t.Errorf("deleted %+v", x)
	}
	problem(t, c.do(request(http.MethodGet, "/v1/artifacts/tool@1.10", "")), http.StatusNotFound)
}

// Deleting takes effect once, and a repetition of the request is told so.
func TestDeleteArtifactOnce(t *testing.T) {
	c := newCore(t)
	c.publishing()
	d := c.artifact("app", 1)
	for range 2 {
		r := request(http.MethodDelete, "/v1/artifacts/"+d.String(), "")
		r.Header.Set("Idempotency-Key", "k")
		if x := read[v1.Artifact](t, c.do(r), http.StatusOK); x.Digest != d.String() {
			t.Errorf("got %+v", x)
		}
	}
}

func TestPrefixOfSeveralArtifacts(t *testing.T) {
	c := newCore(t)
	c.publishing()
	var v registry.View
	seen := make(map[string]bool)
	for n := uint64(1); ; n++ { // until two begin alike
		d := wire.DigestOf(fmt.Append(nil, "x", n)).String()
		if seen[d[:2]] {
			break
		}
		seen[d[:2]] = true
		c.artifact("x", n)
		v = c.View()
	}
	if x, err := findPrefix(v, "path.id", firstArtifact(v).Digest.String()[:2]); err != nil || x.Digest != firstArtifact(v).Digest {
		t.Errorf("found %+v, %v", x, err)
	}
	if _, err := findPrefix(v, "path.id", ""); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("a beginning of all: %v", err)
	}
}

func firstArtifact(v registry.View) (first *registry.Artifact) {
	v.Artifacts(wire.Digest{}, func(x *registry.Artifact) bool { first = x; return false })
	return first
}

func TestPublishers(t *testing.T) {
	c := newCore(t)
	payload, err := wire.Marshal(publisherSetOf(1))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"payload":"` + base64.StdEncoding.EncodeToString(payload) + `"}`
	if p := ask[v1.PublisherSet](c, http.MethodPost, "/v1/publishers", body, http.StatusCreated); p.Number != 1 || p.Threshold != 1 || p.SetBy != "op-1" {
		t.Errorf("got %+v", p)
	}
	problem(t, c.do(request(http.MethodPost, "/v1/publishers", body)), http.StatusUnprocessableEntity) // there is one
	ask[v1.PublisherSet](c, http.MethodPost, "/v1/publishers", `{"sealed":"`+nextSet(t)+`"}`, http.StatusCreated)
	l := ask[v1.List[v1.PublisherSet]](c, http.MethodGet, "/v1/publishers", "", http.StatusOK).Items
	key := seal.PublisherKeyOf(publicOf(ada)).String()
	if len(l) != 2 || l[1].Number != 2 || !slices.Equal(l[1].Publishers, []v1.Publisher{{Name: "ada", Key: key}}) || !slices.Equal(l[0].Roots, []string{key}) {
		t.Fatalf("got %+v", l)
	}
	sealed, err := base64.StdEncoding.DecodeString(l[0].Sealed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.OpenPublisherSet(sealed, "acme", nil, publicOf(authority)); err != nil {
		t.Errorf("the authority did not sign set 1: %v", err)
	}
}

func TestSlots(t *testing.T) {
	c := newCore(t)
	c.publishing()
	one := c.artifact("app", 1)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	path := "/v1/devices/" + m.id.String()
	slot := path + "/slots/app"
	w := c.do(request(http.MethodPut, slot, `{"artifact":"app@1.1","downgrade":true}`))
	d := read[v1.Device](t, w, http.StatusOK)
	since := start
	want := v1.Assignment{Slot: "app", Artifact: one.String(), Name: "app", Version: "1.1", Downgrade: true, Order: 1, Since: &since, By: "op-1"}
	if len(d.Desired.Assignments) != 1 || d.Desired.Version != 1 {
		t.Fatalf("desired %+v", d.Desired)
	}
	if got := d.Desired.Assignments[0]; !got.Since.Equal(since) {
		t.Errorf("since %v", got.Since)
	} else if got.Since = &since; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r := request(http.MethodPost, slot+"/retry", "")
	r.Header.Set("If-Match", w.Header().Get("ETag"))
	if d := read[v1.Device](t, c.do(r), http.StatusOK); d.Desired.Assignments[0].Attempt != 1 || d.Desired.Version != 2 {
		t.Errorf("desired %+v", d.Desired)
	}
	r = request(http.MethodDelete, slot, "")
	r.Header.Set("If-Match", w.Header().Get("ETag")) // of before
	problem(t, c.do(r), http.StatusPreconditionFailed)
	c.pass(time.Minute)
	c.states(m, "plant-7/gw-a", start.UnixMilli(), seal.StatementStatus, seal.Status{
		Slot: "app", Artifact: one, Order: 2, State: seal.SlotFailed, Reason: "health", Detail: "port 80: refused", Total: 9, Fetched: 4, Saved: 5, Attempt: 1,
	})
	c.states(m, "plant-7/gw-a", start.UnixMilli(), seal.StatementAlarm, seal.Alarm{Reason: "publishers", Detail: "set 2"})
	got := ask[v1.Device](c, http.MethodGet, path, "", http.StatusOK).Reported
	status := v1.Status{
		Slot: "app", State: "failed", Artifact: one.String(), Name: "app", Version: "1.1", Order: 2, Attempt: 1, Reason: "health", Detail: "port 80: refused",
		TotalBytes: 9, FetchedBytes: 4, SavedBytes: 5,
	}
	if len(got.Slots) != 1 || got.Version != 2 || got.Slots[0].Status != status || got.Slots[0].Seq != 1 || !got.Slots[0].At.Equal(start.Add(time.Minute)) {
		t.Errorf("reported %+v", got)
	}
	items := ask[v1.List[v1.HistoryItem]](c, http.MethodGet, path+"/history", "", http.StatusOK).Items
	if len(items) != 2 || items[0].Type != "status" || items[0].Status == nil || *items[0].Status != status || items[0].Alarm != nil {
		t.Fatalf("history %+v", items)
	}
	if items[1].Type != "alarm" || items[1].Alarm == nil || items[1].Alarm.Reason != "publishers" || items[1].Status != nil {
		t.Errorf("history %+v", items[1])
	}
	e := ask[v1.Explanation](c, http.MethodGet, path+"/explain", "", http.StatusOK)
	if last := e.Facts[len(e.Facts)-1]; last.Topic != "next" || last.Slot != "app" || !strings.Contains(last.Text, "retry") {
		t.Errorf("explained %+v", e)
	}
	if d := ask[v1.Device](c, http.MethodDelete, slot, "", http.StatusOK); d.Desired.Assignments[0].Artifact != "" || d.Desired.Version != 3 {
		t.Errorf("desired %+v", d.Desired)
	}
}

func TestSiteContent(t *testing.T) {
	c := newCore(t)
	for _, step := range []struct {
		body string
		want v1.Content
	}{
		{`{}`, v1.Content{}},
		{`{"content_bytes_per_second":2097152}`, v1.Content{BytesPerSecond: 2 << 20}},
		{`{"content_window":"22:00-05:00"}`, v1.Content{BytesPerSecond: 2 << 20, Window: "22:00-05:00"}},
		{`{"heartbeat_interval":"2s"}`, v1.Content{BytesPerSecond: 2 << 20, Window: "22:00-05:00"}},
		{`{"content_bytes_per_second":0,"content_window":""}`, v1.Content{}},
	} {
		if got := ask[v1.Site](c, http.MethodPut, "/v1/sites/plant-7", step.body, http.StatusOK); got.Content != step.want {
			t.Errorf("%s: %+v, want %+v", step.body, got.Content, step.want)
		}
	}
}

func TestBadArtifacts(t *testing.T) {
	const slot, artifacts, publishers = "/v1/devices/" + someDevice + "/slots/app", "/v1/artifacts/", "/v1/publishers"
	refuse(t, []badCase{
		{"GET", artifacts + "abc", "", 422, "path.id digits"},
		{"GET", artifacts + "ABCDEF0123", "", 422, "path.id digits"},
		{"GET", artifacts + "../devices", "", 404, ""},
		{"GET", artifacts + "-@1", "", 422, "path.id NAME@VERSION"},
		{"GET", artifacts + "app@9", "", 404, "app@9"},
		{"GET", artifacts + "01234567", "", 404, "01234567"},
		{"GET", artifacts + strings.Repeat("0", 64), "", 404, "0000"},
		{"GET", artifacts + strings.Repeat("0", 65), "", 422, "path.id"},
		{"DELETE", artifacts + "app@9", "", 404, "app@9"},
		{"DELETE", artifacts + strings.Repeat("0", 64), "", 404, "0000"},
		{"GET", "/v1/artifacts?name=A", "", 422, "query.name"},
		{"GET", "/v1/artifacts?cursor=x", "", 422, "query.cursor"},
		{"PUT", slot, `{}`, 422, "body artifact required"},
		{"PUT", slot, `{"artifact":""}`, 422, "body.artifact"},
		{"PUT", slot, `{"artifact":"app@9"}`, 404, "app@9"},
		{"PUT", slot, `{"artifact":"app@9","surprise":1}`, 422, "body surprise"},
		{"PUT", "/v1/devices/x/slots/app", `{"artifact":"app@9"}`, 422, "path.id"},
		{"DELETE", "/v1/devices/" + someDevice + "/slots/APP", "", 422, "path.slot"},
		{"DELETE", slot, "", 404, "slot app"},
		{"POST", slot + "/retry", "", 404, "slot app"},
		{"POST", "/v1/devices/" + someDevice + "/slots/" + strings.Repeat("a", 33) + "/retry", "", 422, "path.slot"},
		{"GET", "/v1/devices/x/explain", "", 422, "path.id"},
		{"GET", "/v1/devices/" + noDevice + "/explain", "", 404, noDevice},
		{"POST", publishers, `{}`, 422, "body payload"},
		{"POST", publishers, `{"payload":"AA==","sealed":"AA=="}`, 422, "body exactly one"},
		{"POST", publishers, `{"payload":"*"}`, 422, "body.payload base64"},
		{"POST", publishers, `{"payload":"AA=="}`, 422, "body.payload"},
		{"POST", publishers, `{"payload":"oQMC"}`, 422, "body.payload set 2"},
		{"POST", publishers, `{"payload":"oQMB"}`, 422, "body.payload"},
		{"POST", publishers, `{"sealed":"*"}`, 422, "body.sealed base64"},
		{"POST", publishers, `{"sealed":"AA=="}`, 422, "body.sealed"},
		{"PUT", "/v1/sites/plant-7", `{"content_window":"night"}`, 422, "body.content_window 22:00-05:00"},
		{"PUT", "/v1/sites/plant-7", `{"content_bytes_per_second":-1}`, 422, "body.content_bytes_per_second"},
		{"PUT", "/v1/sites/plant-7", `{"content_bytes_per_second":1099511627777}`, 422, "body.content_bytes_per_second"},
	})
}
