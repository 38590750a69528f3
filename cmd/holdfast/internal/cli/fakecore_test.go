package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
)

const goodToken = "hfo1_the-operators-secret"

// fakeNow is the time on the fake core's clock, far from that of the machine.
var fakeNow = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)

func before(d time.Duration) *time.Time {
	t := fakeNow.Add(-d)
	return &t
}

// A fakeCore answers as a core node does, from fixed data, with two items on a page.
type fakeCore struct {
	fleet    string
	devices  []v1.Device
	sites    []v1.Site
	gateways []v1.Gateway
	tokens   []v1.Token
	history  []v1.HistoryItem
	presence []v1.PresenceItem
	events   []v1.Event
	cluster  v1.Cluster

	operators []v1.Operator

	artifacts  []v1.Artifact
	publishers []v1.PublisherSet
	explained  v1.Explanation

	audit     auditTrail
	authority *identtest.Fleet // signs the trail's head; nil: nobody does

	hook func(w http.ResponseWriter, r *http.Request) bool // true: the hook has answered

	mu       sync.Mutex
	requests []string // method, path and query, space, body
	tagged   []string // If-Match of each request that has one
}

// serve starts the core and returns its server, which the test ends.
func (f *fakeCore) serve(t *testing.T) *httptest.Server {
	t.Helper()
	srv := httptest.NewTLSServer(f)
	t.Cleanup(srv.Close)
	return srv
}

func (f *fakeCore) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fakeCore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	f.mu.Lock()
	f.requests = append(f.requests, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	if tag := r.Header.Get("If-Match"); tag != "" {
		f.tagged = append(f.tagged, tag)
	}
	f.mu.Unlock()
	w.Header().Set("Date", fakeNow.Format(http.TimeFormat))
	if f.hook != nil && f.hook(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		refuse(w, http.StatusUnauthorized, "the token is not known here")
		return
	}
	f.mux().ServeHTTP(w, r)
}

func (f *fakeCore) mux() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/whoami", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, v1.Whoami{ID: "op-1", Operator: "admin", Role: "admin", Sites: []string{}, Fleet: f.fleet})
	})
	m.HandleFunc("GET /v1/devices", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		page(w, r, filter(f.devices, func(d v1.Device) bool {
			return is(q.Get("site"), d.Site) && is(q.Get("state"), d.State) && is(q.Get("presence"), d.Presence)
		}))
	})
	m.HandleFunc("GET /v1/devices/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"r12"`)
		one(w, r, f.devices, deviceName)
	})
	m.HandleFunc("PATCH /v1/devices/{id}", f.setDevice)
	m.HandleFunc("PATCH /v1/devices/{id}/tags", f.setTags)
	m.HandleFunc("GET /v1/devices/{id}/history", func(w http.ResponseWriter, r *http.Request) { page(w, r, ordered(r, f.history)) })
	m.HandleFunc("GET /v1/devices/{id}/presence", func(w http.ResponseWriter, r *http.Request) { page(w, r, ordered(r, f.presence)) })
	m.HandleFunc("GET /v1/sites", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.sites) })
	m.HandleFunc("GET /v1/sites/{id}", func(w http.ResponseWriter, r *http.Request) { one(w, r, f.sites, siteName) })
	m.HandleFunc("PUT /v1/sites/{id}", f.setSite)
	m.HandleFunc("GET /v1/gateways", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.gateways) })
	m.HandleFunc("GET /v1/gateways/{site}/{name}", f.gateway)
	m.HandleFunc("POST /v1/gateways/{site}/{name}/revoke", f.revokeGateway)
	m.HandleFunc("GET /v1/tokens", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.tokens) })
	m.HandleFunc("GET /v1/tokens/{id}", func(w http.ResponseWriter, r *http.Request) { one(w, r, f.tokens, tokenName) })
	m.HandleFunc("DELETE /v1/tokens/{id}", func(w http.ResponseWriter, r *http.Request) { one(w, r, f.tokens, tokenName) })
	m.HandleFunc("POST /v1/tokens", f.createToken)
	m.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, f.cluster) })
	m.HandleFunc("GET /v1/events", f.stream)
	m.HandleFunc("DELETE /v1/cluster/nodes/{id}", f.removeNode)
	m.HandleFunc("POST /v1/cluster/snapshot", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, v1.Snapshot{Node: "core-2", Index: f.cluster.Index})
	})
	m.HandleFunc("POST /v1/cluster/transfer-leadership", f.transfer)
	m.HandleFunc("GET /v1/operators", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.operators) })
	m.HandleFunc("GET /v1/operators/{id}", func(w http.ResponseWriter, r *http.Request) { one(w, r, f.operators, operatorName) })
	m.HandleFunc("DELETE /v1/operators/{id}", func(w http.ResponseWriter, r *http.Request) { one(w, r, f.operators, operatorName) })
	m.HandleFunc("POST /v1/operators", f.createOperator)
	m.HandleFunc("GET /v1/artifacts", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.artifacts) })
	m.HandleFunc("GET /v1/artifacts/{id}", f.artifact)
	m.HandleFunc("DELETE /v1/artifacts/{id}", f.artifact)
	m.HandleFunc("GET /v1/publishers", func(w http.ResponseWriter, r *http.Request) { page(w, r, f.publishers) })
	m.HandleFunc("POST /v1/publishers", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusCreated, f.publishers[0]) })
	m.HandleFunc("GET /v1/devices/{id}/explain", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, f.explained) })
	m.HandleFunc("PUT /v1/devices/{id}/slots/{slot}", f.setSlot)
	m.HandleFunc("DELETE /v1/devices/{id}/slots/{slot}", f.setSlot)
	m.HandleFunc("POST /v1/devices/{id}/slots/{slot}/retry", f.setSlot)
	f.auditRoutes(m)
	return m
}

func deviceName(d v1.Device) string { return d.ID }
func siteName(s v1.Site) string     { return s.Name }
func tokenName(t v1.Token) string   { return t.ID }

func operatorName(o v1.Operator) string { return o.ID }

func (f *fakeCore) removeNode(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(f.cluster.Nodes, func(n v1.Node) bool { return n.Name == r.PathValue("id") })
	if i < 0 {
		refuse(w, http.StatusNotFound, r.PathValue("id")+": not found")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeCore) transfer(w http.ResponseWriter, r *http.Request) {
	var in v1.TransferLeadership
	read(r, &in)
	f.cluster.Leader = in.To
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeCore) createOperator(w http.ResponseWriter, r *http.Request) {
	var in v1.CreateOperator
	read(r, &in)
	o := v1.Operator{ID: "op-9f3a", Name: in.Name, Role: in.Role, Sites: in.Sites, State: "active", CreatedAt: fakeNow, CreatedBy: "op-1"}
	if in.TTL != "" {
		at := fakeNow.Add(time.Duration(seconds(in.TTL) * float64(time.Second)))
		o.ExpiresAt = &at
	}
	answer(w, http.StatusCreated, v1.NewOperator{Operator: o, Token: "hfo1_new"})
}

func (f *fakeCore) setDevice(w http.ResponseWriter, r *http.Request) {
	var in v1.SetDevice
	read(r, &in)
	d := f.devices[0]
	d.HeartbeatIntervalS = 30
	if v := *in.HeartbeatInterval; v != "" {
		d.HeartbeatIntervalS = seconds(v)
	}
	answer(w, 200, d)
}

func (f *fakeCore) setTags(w http.ResponseWriter, r *http.Request) {
	var in v1.SetTags
	read(r, &in)
	d := f.devices[0]
	d.Tags = map[string]string{"site": d.Site}
	maps.Copy(d.Tags, in.Set)
	answer(w, 200, d)
}

func (f *fakeCore) artifact(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"r9"`)
	id := r.PathValue("id")
	i := slices.IndexFunc(f.artifacts, func(x v1.Artifact) bool { return x.Digest == id || x.Name+"@"+x.Version == id })
	if i < 0 {
		refuse(w, http.StatusNotFound, "artifact "+id+": not found")
		return
	}
	answer(w, 200, f.artifacts[i])
}

// setSlot answers a change of a slot with the device after it.
func (f *fakeCore) setSlot(w http.ResponseWriter, r *http.Request) {
	d := f.devices[0]
	x := v1.Assignment{Slot: r.PathValue("slot"), Order: 5, Since: before(0), By: "op-1"}
	switch r.Method {
	case http.MethodPut:
		var in v1.SetSlot
		read(r, &in)
		x.Artifact, x.Name, x.Version, x.Downgrade = f.artifacts[0].Digest, f.artifacts[0].Name, f.artifacts[0].Version, in.Downgrade
	case http.MethodPost:
		x.Artifact, x.Attempt = f.artifacts[1].Digest, 1
	}
	d.Desired = v1.Desired{Version: 5, Assignments: []v1.Assignment{x}}
	answer(w, 200, d)
}

func (f *fakeCore) setSite(w http.ResponseWriter, r *http.Request) {
	var in v1.SetSite
	read(r, &in)
	s := v1.Site{Name: r.PathValue("id"), HeartbeatIntervalS: 30, CreatedAt: fakeNow}
	if in.HeartbeatInterval != "" {
		s.HeartbeatIntervalS = seconds(in.HeartbeatInterval)
	}
	if in.ContentRate != nil {
		s.Content.BytesPerSecond = *in.ContentRate
	}
	if in.ContentWindow != nil {
		s.Content.Window = *in.ContentWindow
	}
	answer(w, 200, s)
}

func (f *fakeCore) gateway(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("site") + "/" + r.PathValue("name")
	i := slices.IndexFunc(f.gateways, func(g v1.Gateway) bool { return gatewayName(g) == id })
	if i < 0 {
		refuse(w, http.StatusNotFound, "gateway "+id+": not found")
		return
	}
	w.Header().Set("ETag", `"r7"`)
	answer(w, 200, f.gateways[i])
}

func (f *fakeCore) revokeGateway(w http.ResponseWriter, r *http.Request) {
	var in v1.RevokeGateway
	read(r, &in)
	for i := range f.gateways {
		if g := &f.gateways[i]; g.Site == r.PathValue("site") && g.Name == r.PathValue("name") {
			g.State, g.Uplink, g.Connected, g.RevokedAt, g.RevokedBy, g.Reason = gatewayRevoked, nil, false, before(0), "op-1", in.Reason
		}
	}
	for i := range f.sites {
		if s := &f.sites[i]; s.Name == r.PathValue("site") {
			s.Gateways--
		}
	}
	f.gateway(w, r)
}

func (f *fakeCore) createToken(w http.ResponseWriter, r *http.Request) {
	var in v1.CreateToken
	read(r, &in)
	if in.Kind != "core" && in.Site == "" {
		refuse(w, http.StatusUnprocessableEntity, "body.site: is missing: a "+in.Kind+" token enrolls into one site")
		return
	}
	t := v1.Token{
		ID: "tk9f3a", Kind: in.Kind, Site: in.Site, Tags: in.Tags, Uses: max(in.Uses, 1), CreatedAt: fakeNow, CreatedBy: "admin",
		ExpiresAt: fakeNow.Add(time.Hour), State: "open", Comment: in.Comment,
	}
	if in.TTL != "" {
		t.ExpiresAt = fakeNow.Add(time.Duration(seconds(in.TTL) * float64(time.Second)))
	}
	answer(w, http.StatusCreated, v1.NewToken{ID: t.ID, Token: "hf1_secret", Record: t})
}

// stream sends the events behind "after", whose ids are their indexes here, and ends.
func (f *fakeCore) stream(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		after = 0
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send(w, ": hello\n\n")
	for _, e := range f.events {
		if e.Index > after {
			b, err := json.Marshal(e)
			if err != nil {
				panic(err)
			}
			send(w, fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.Index, e.Type, b))
		}
	}
}

func send(w io.Writer, text string) {
	if _, err := io.WriteString(w, text); err != nil {
		panic(err)
	}
}

func is(want, have string) bool { return want == "" || want == have }

func filter[T any](items []T, keep func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(items), func(v T) bool { return !keep(v) })
}

func ordered[T any](r *http.Request, items []T) []T {
	items = slices.Clone(items)
	if r.URL.Query().Get("order") == "desc" {
		slices.Reverse(items)
	}
	return items
}

func seconds(s string) float64 {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d.Seconds()
}

func read(r *http.Request, v any) {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		panic(err)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(err)
	}
}

func refuse(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	location, message, _ := strings.Cut(detail, ": ")
	p := map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail}
	if message != "" {
		p["errors"] = []map[string]any{{"location": location, "message": message}}
	}
	if err := json.NewEncoder(w).Encode(p); err != nil {
		panic(err)
	}
}

// page answers with one page of two items.
func page[T any](w http.ResponseWriter, r *http.Request, items []T) {
	from := 0
	if c := r.URL.Query().Get("cursor"); c != "" {
		var err error
		if from, err = strconv.Atoi(c); err != nil {
			refuse(w, http.StatusUnprocessableEntity, "query.cursor: is damaged")
			return
		}
	}
	n, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || n < 1 || n > 1000 {
		refuse(w, http.StatusUnprocessableEntity, "query.limit: must be from 1 to 1000")
		return
	}
	to := min(from+min(n, 2), len(items))
	l := v1.List[T]{Items: items[from:to]}
	if to < len(items) {
		l.NextCursor = strconv.Itoa(to)
	}
	answer(w, 200, l)
}

// one answers with the item that the path names.
func one[T any](w http.ResponseWriter, r *http.Request, items []T, name func(T) string) {
	i := slices.IndexFunc(items, func(v T) bool { return name(v) == r.PathValue("id") })
	if i < 0 {
		refuse(w, http.StatusNotFound, r.PathValue("id")+": not found")
		return
	}
	answer(w, 200, items[i])
}
