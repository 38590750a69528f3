package api

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The life of an operator: made, used, expired or revoked.
func TestOperators(t *testing.T) {
	c := newCore(t)
	w := c.do(request("POST", "/v1/operators", `{"name":"Ada L.","role":"operator","sites":["plant-8","plant-7","plant-8"],"ttl":"2h"}`))
	made := read[v1.NewOperator](t, w, http.StatusCreated)
	o := made.Operator
	if !regexp.MustCompile(`^op-[0-9a-f]{12}$`).MatchString(o.ID) || !regexp.MustCompile(`^hfo1_[A-Za-z0-9_-]{43}$`).MatchString(made.Token) {
		t.Errorf("got %+v", made)
	}
	if got := w.Header().Get("Location"); got != "/v1/operators/"+o.ID {
		t.Errorf("location %q", got)
	}
	end := start.Add(2 * time.Hour)
	want := v1.Operator{
		ID: o.ID, Name: "Ada L.", Role: "operator", Sites: []string{"plant-7", "plant-8"}, State: "active", CreatedAt: start, CreatedBy: "op-1", ExpiresAt: &end,
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got %+v, want %+v", o, want)
	}
	again := c.do(request("GET", "/v1/operators/"+o.ID, ""))
	if got := read[v1.Operator](t, again, http.StatusOK); !reflect.DeepEqual(got, want) || strings.Contains(again.Body.String(), "hfo1_") {
		t.Errorf("got %s", again.Body)
	}
	me := read[v1.Whoami](t, c.do(as(made.Token, request("GET", "/v1/whoami", ""))), http.StatusOK)
	if !reflect.DeepEqual(me, v1.Whoami{ID: o.ID, Operator: "Ada L.", Role: "operator", Sites: []string{"plant-7", "plant-8"}, Fleet: "acme"}) {
		t.Errorf("got %+v", me)
	}
	c.pass(2 * time.Hour)
	problem(t, c.do(as(made.Token, request("GET", "/v1/whoami", ""))), http.StatusUnauthorized)
	if got := ask[v1.Operator](c, "GET", "/v1/operators/"+o.ID, "", http.StatusOK).State; got != "expired" {
		t.Errorf("state %s", got)
	}
	other := ask[v1.NewOperator](c, "POST", "/v1/operators", `{"name":"b","role":"admin"}`, http.StatusCreated)
	for range 2 {
		if got := ask[v1.Operator](c, "DELETE", "/v1/operators/"+other.Operator.ID, "", http.StatusOK); got.State != "revoked" || got.ExpiresAt != nil {
			t.Errorf("got %+v", got)
		}
	}
	problem(t, c.do(as(other.Token, request("GET", "/v1/whoami", ""))), http.StatusUnauthorized)
	// Nobody locks himself out.
	if p := problem(t, c.do(request("DELETE", "/v1/operators/op-1", "")), http.StatusUnprocessableEntity); !strings.Contains(p.Detail, "only administrator") {
		t.Errorf("got %+v", p)
	}
	if ids := walk(c, "/v1/operators", func(o v1.Operator) string { return o.ID }); len(ids) != 3 {
		t.Errorf("listed %q", ids)
	}
}

func TestBadOperators(t *testing.T) {
	const path = "/v1/operators"
	refuse(t, []badCase{
		{"POST", path, `{}`, 422, "body name required"},
		{"POST", path, `{"name":"a"}`, 422, "body role required"},
		{"POST", path, `{"name":"","role":"viewer"}`, 422, "body.name"},
		{"POST", path, `{"name":"` + strings.Repeat("x", 65) + `","role":"viewer"}`, 422, "body.name 64"},
		{"POST", path, `{"name":"a\u0007","role":"viewer"}`, 422, "body.name print"},
		{"POST", path, `{"name":" a","role":"viewer"}`, 422, "body.name white"},
		{"POST", path, `{"name":"a","role":"root"}`, 422, "body.role"},
		{"POST", path, `{"name":"a","role":"viewer","sites":["A"]}`, 422, "body.sites[0]"},
		{"POST", path, `{"name":"a","role":"viewer","sites":["a",""]}`, 422, "body.sites[1]"},
		{"POST", path, `{"name":"a","role":"viewer","sites":[` + strings.Repeat(`"a",`, 64) + `"a"]}`, 422, "body.sites 64"},
		{"POST", path, `{"name":"a","role":"viewer","ttl":"59s"}`, 422, "body.ttl 1m"},
		{"POST", path, `{"name":"a","role":"viewer","ttl":"87601h"}`, 422, "body.ttl"},
		{"GET", path + "/admin", "", 422, "path.id op-"},
		{"GET", path + "/op-ABC", "", 422, "path.id"},
		{"GET", path + "/op-77", "", 404, "op-77"},
		{"DELETE", path + "/op-77", "", 404, "op-77"},
		{"DELETE", path + "/op-1", "{}", 400, "body none"},
		{"POST", "/v1/devices/" + someDevice + "/release", "{}", 400, "body none"},
	})
}

// A core node's token is for administrators, for one node, and for a quarter of an hour.
func TestCoreTokens(t *testing.T) {
	c := newCore(t)
	made := ask[v1.NewToken](c, "POST", "/v1/tokens", `{"kind":"core"}`, http.StatusCreated)
	if r := made.Record; r.Kind != "core" || r.Site != "" || r.Uses != 1 || !r.ExpiresAt.Equal(start.Add(15*time.Minute)) {
		t.Errorf("got %+v", r)
	}
	if r := ask[v1.NewToken](c, "POST", "/v1/tokens", `{"kind":"core","ttl":"2m"}`, http.StatusCreated).Record; !r.ExpiresAt.Equal(start.Add(2 * time.Minute)) {
		t.Errorf("got %+v", r)
	}
	rec, _ := c.View().Token(mustTokenID(t, made.ID))
	if rec == nil || rec.Kind != seal.KindCore {
		t.Errorf("got %+v", rec)
	}
	if got := ask[v1.Token](c, "DELETE", "/v1/tokens/"+made.ID, "", http.StatusOK).State; got != "revoked" {
		t.Errorf("state %s", got)
	}
}

func mustTokenID(t *testing.T, s string) seal.TokenID {
	t.Helper()
	id, err := seal.ParseTokenID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestClusterRoutes(t *testing.T) {
	c := newCore(t)
	c.join("core-2")
	c.join("core-3")
	n := c.server.Cluster.(*nodes)
	if got := ask[v1.Cluster](c, "DELETE", "/v1/cluster/nodes/core-3", "", http.StatusOK); len(got.Nodes) != 2 {
		t.Errorf("got %+v", got)
	}
	all := ask[v1.List[v1.AuditRecord]](c, "GET", "/v1/audit", "", http.StatusOK).Items
	if last := all[len(all)-1]; last.Action != "node.remove" || last.Actor != "operator:op-1" || last.Target != "core-3" || last.Request == "" {
		t.Errorf("on the trail: %+v", last)
	}
	problem(t, c.do(request("DELETE", "/v1/cluster/nodes/core-3", "")), http.StatusNotFound)
	problem(t, c.do(request("DELETE", "/v1/cluster/nodes/Core", "")), http.StatusUnprocessableEntity)
	if got := ask[v1.Snapshot](c, "POST", "/v1/cluster/snapshot", "", http.StatusOK); got.Node != "core-1" || got.Index != c.View().Index() {
		t.Errorf("got %+v", got)
	}
	for _, tc := range []struct{ body, to string }{{`{"to":"core-2"}`, "core-2"}, {`{}`, ""}, {``, ""}} {
		n.to = "nobody"
		if ask[v1.Cluster](c, "POST", "/v1/cluster/transfer-leadership", tc.body, http.StatusOK); n.to != tc.to {
			t.Errorf("%s: handed over to %q", tc.body, n.to)
		}
	}
	for _, body := range []string{`{"to":"core-3"}`, `{"to":"Core"}`} {
		if p := problem(t, c.do(request("POST", "/v1/cluster/transfer-leadership", body)), http.StatusUnprocessableEntity); !strings.Contains(p.Detail, "body.to") {
			t.Errorf("%s: %+v", body, p)
		}
	}
	n.fail = fmt.Errorf("%w: %w", raftstore.ErrUnknownOutcome, raftstore.ErrClosed)
	for _, r := range []*http.Request{
		request("POST", "/v1/cluster/snapshot", ""), request("POST", "/v1/cluster/transfer-leadership", "{}"), request("DELETE", "/v1/cluster/nodes/core-2", ""),
	} {
		if p := problem(t, c.do(r), http.StatusGatewayTimeout); p.Type != v1.ProblemOutcomeUnknown {
			t.Errorf("%s: %+v", r.URL, p)
		}
	}
}

// The metrics show requests by operation and code, and what the owner hands in, and nothing that a client can choose.
func TestMetrics(t *testing.T) {
	handed := prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_test_gauge", Help: "-"})
	handed.Set(42)
	c := newCore(t)
	c.server.metrics.add(handed, handed) // the second is left out
	view, limited := c.operator("op-2", registry.RoleViewer), c.operator("op-3", registry.RoleAdmin, "plant-7")
	c.do(request("GET", "/v1/devices", ""))
	c.do(request("GET", "/v1/devices?limit=0", ""))
	c.do(request("GET", "/v1/chosen/by/client", ""))
	c.do(as("hfo1_chosen", request("GET", "/v1/devices", "")))
	c.do(as(view, request("PUT", "/v1/sites/chosen", "{}")))
	problem(t, c.do(as(limited, request("GET", "/metrics", ""))), http.StatusForbidden)
	w := c.do(as(view, request("GET", "/metrics", "")))
	if ct := w.Header().Get("Content-Type"); w.Code != http.StatusOK || !strings.HasPrefix(ct, "text/plain") {
		t.Fatalf("%d %s", w.Code, ct)
	}
	for _, want := range []string{
		`holdfast_api_requests_total{code="200",operation="list-devices"} 1`, `holdfast_api_requests_total{code="422",operation="list-devices"} 1`,
		`holdfast_api_requests_total{code="404",operation="none"} 1`, `holdfast_api_requests_total{code="403",operation="set-site"} 1`,
		`holdfast_api_refusals_total{reason="role"} 1`, `holdfast_api_refusals_total{reason="site"} 1`, `holdfast_test_gauge 42`, "go_goroutines", "holdfast_api_streams 0",
		`holdfast_api_refusals_total{reason="unknown token"} 1`, `holdfast_api_request_seconds_count{operation="list-devices"} 3`, "holdfast_api_requests_in_flight 1", "process_",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is not in the metrics", want)
		}
	}
	if strings.Contains(w.Body.String(), "chosen") {
		t.Error("a label holds what a client chose")
	}
	if !strings.Contains(c.log.String(), "metric left out") {
		t.Error("nothing tells of the metric that was left out")
	}
	if w := c.do(as(view, request(http.MethodHead, "/metrics", ""))); w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d, %d bytes", w.Code, w.Body.Len())
	}
}
