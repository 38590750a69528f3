package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What a role may do at least for a route to be open to it, as a person would write it.
const (
	anybody = iota
	viewer
	operatorRole
	adminRole
)

// About what a request is.
const (
	own     = "own"     // whatever the operator sees
	fleet   = "fleet"   // the fleet as a whole
	atSite  = "site"    // a site, or something of it, which is as good as not there for operators of others
	asked   = "asked"   // a site that the body names, about which nothing is given away
	gateway = "gateway" // a gateway's token, which belongs to a site and is made for the fleet
	coreTok = "core"    // a core node's token, which only administrators see
)

// A rule is what the test expects of one route with one sort of subject. The list is written by hand, apart from the table of
// the package, and compared with it through real requests.
type rule struct {
	route  string // method and path; {here} is what belongs to the site
	least  int
	about  string
	body   string
	status int // when it is permitted
	public bool
}

var rules = []rule{
	{route: "GET /healthz", public: true},
	{route: "GET /readyz", public: true},
	{route: "GET /openapi.json", public: true},
	{route: "GET /metrics", least: viewer, about: fleet},
	{route: "GET /v1/whoami", least: viewer, about: own},
	{route: "GET /v1/devices", least: viewer, about: own},
	{route: "GET /v1/devices/{device}", least: viewer, about: atSite},
	{route: "GET /v1/devices/{device}/history", least: viewer, about: atSite},
	{route: "GET /v1/devices/{device}/presence", least: viewer, about: atSite},
	{route: "PATCH /v1/devices/{device}", least: operatorRole, about: atSite, body: `{"heartbeat_interval":"5s"}`},
	{route: "PATCH /v1/devices/{device}/tags", least: operatorRole, about: atSite, body: `{"set":{"line":"3"}}`},
	{route: "POST /v1/devices/{device}/release", least: operatorRole, about: atSite},
	{route: "GET /v1/devices/{device}/explain", least: viewer, about: atSite},
	{route: "PUT /v1/devices/{idle}/slots/app", least: operatorRole, about: atSite, body: `{"artifact":"app@1.1"}`},
	{route: "DELETE /v1/devices/{idle}/slots/old", least: operatorRole, about: atSite},
	{route: "POST /v1/devices/{idle}/slots/old/retry", least: operatorRole, about: atSite},
	{route: "GET /v1/artifacts", least: viewer, about: own},
	{route: "GET /v1/artifacts/app@1.1", least: viewer, about: own},
	{route: "DELETE /v1/artifacts/app@1.1", least: operatorRole, about: fleet},
	{route: "GET /v1/publishers", least: viewer, about: own},
	{route: "POST /v1/publishers", least: adminRole, about: fleet, body: `{"sealed":"{nextset}"}`, status: 201},
	{route: "GET /v1/sites", least: viewer, about: own},
	{route: "GET /v1/sites/{site}", least: viewer, about: atSite},
	{route: "PUT /v1/sites/{site}", least: operatorRole, about: atSite, body: `{"heartbeat_interval":"5s"}`},
	{route: "GET /v1/gateways", least: viewer, about: own},
	{route: "GET /v1/gateways/{gatewayof}", least: viewer, about: atSite},
	{route: "POST /v1/gateways/{gatewayof}/revoke", least: adminRole, about: atSite, body: `{"reason":"stolen"}`},
	{route: "GET /v1/tokens", least: viewer, about: own},
	{route: "POST /v1/tokens", least: operatorRole, about: asked, body: `{"kind":"device","site":"{site}"}`, status: 201},
	{route: "POST /v1/tokens", least: operatorRole, about: fleet, body: `{"kind":"gateway","site":"{site}"}`, status: 201},
	{route: "POST /v1/tokens", least: adminRole, about: fleet, body: `{"kind":"core"}`, status: 201},
	{route: "GET /v1/tokens/{devicetoken}", least: viewer, about: atSite},
	{route: "GET /v1/tokens/{gatewaytoken}", least: viewer, about: atSite},
	{route: "GET /v1/tokens/{coretoken}", least: adminRole, about: coreTok},
	{route: "DELETE /v1/tokens/{devicetoken}", least: operatorRole, about: atSite},
	{route: "DELETE /v1/tokens/{gatewaytoken}", least: operatorRole, about: gateway},
	{route: "DELETE /v1/tokens/{coretoken}", least: adminRole, about: coreTok},
	{route: "GET /v1/events", least: viewer, about: own},
	{route: "GET /v1/operators", least: adminRole, about: fleet},
	{route: "POST /v1/operators", least: adminRole, about: fleet, body: `{"name":"x","role":"viewer"}`, status: 201},
	{route: "GET /v1/operators/op-1", least: adminRole, about: fleet},
	{route: "DELETE /v1/operators/op-99", least: adminRole, about: fleet},
	{route: "GET /v1/audit", least: adminRole, about: fleet},
	{route: "GET /v1/audit/head", least: adminRole, about: fleet},
	{route: "GET /v1/audit/export", least: adminRole, about: fleet},
	{route: "GET /v1/cluster", least: viewer, about: fleet},
	{route: "DELETE /v1/cluster/nodes/core-2", least: adminRole, about: fleet},
	{route: "POST /v1/artifacts", least: operatorRole, about: fleet, body: "{addartifact}", status: 201},
	{route: "POST /v1/content", least: operatorRole, about: fleet, body: goodBodies["put-content"]},
	{route: "POST /v1/content/missing", least: operatorRole, about: fleet, body: goodBodies["ask-content"]},
	{route: "POST /v1/cluster/snapshot", least: adminRole, about: fleet},
	{route: "POST /v1/cluster/transfer-leadership", least: adminRole, about: fleet, body: `{}`},
}

// A caller is somebody who sends requests.
type caller struct {
	name    string
	bearer  string
	rank    int  // of the role; 0: nobody who is known
	limited bool // to plant-7
}

// A scene is a fleet with something of every sort at two sites, and all sorts of callers.
type scene struct {
	*core
	callers []caller
	fill    map[string]*strings.Replacer // by site: what stands for the parts of a rule in braces
}

const (
	ownSite   = "plant-7"
	otherSite = "plant-8"
)

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{core: newCore(t), fill: make(map[string]*strings.Replacer)}
	s.join("core-2")
	s.publishing()
	s.artifact("app", 1)
	old := s.artifact("old", 1)
	sent := contenttest.New(t, "sent", 1, 3, 0)
	s.sent(sent.All()...)
	coreToken := seal.NewToken(ident.KeyID{}).ID
	s.commit(&command.CreateToken{By: byAdmin, ID: coreToken, Public: []byte{1}, Kind: seal.KindCore, TTLMS: 3_600_000, Uses: 1})
	for _, site := range []string{ownSite, otherSite} {
		tok := s.token(seal.KindDevice, site)
		d := s.enroll(tok).id
		for run := range 2 { // a clone: the device is quarantined
			s.commit(&command.Presence{Gateway: site + "/gw", Items: []command.PresenceItem{{
				Device: d, Online: true, AtMS: start.UnixMilli(), Attach: &command.Attach{Start: 1, Run: uint64(run), Session: 1},
			}}})
		}
		idle := s.enroll(tok).id
		s.commit(&command.Assign{By: byAdmin, Device: idle, Slot: "old", Verb: command.VerbSet, Artifact: old})
		s.fill[site] = strings.NewReplacer("{idle}", idle.String(), "{nextset}", nextSet(s.t), "{addartifact}", addBody(sent, sent.Sign(t, ada)), "{device}", d.String(), "{site}", site, "{gatewayof}", s.gateway(site, "gw-x"), "{devicetoken}", tok.String(),
			"{gatewaytoken}", s.token(seal.KindGateway, site).String(), "{coretoken}", coreToken.String())
	}
	for role, rank := range map[registry.Role]int{registry.RoleViewer: viewer, registry.RoleOperator: operatorRole, registry.RoleAdmin: adminRole} {
		for _, limited := range []bool{false, true} {
			c := caller{name: string(role), rank: rank, limited: limited}
			var sites []string
			if limited {
				c.name, sites = c.name+" of "+ownSite, []string{ownSite}
			}
			c.bearer = s.operator("op-"+strings.ReplaceAll(c.name, " ", "-"), role, sites...)
			s.callers = append(s.callers, c)
		}
	}
	s.operator("op-99", registry.RoleViewer)
	s.callers = append(s.callers, caller{name: "revoked", bearer: s.operator("op-gone", registry.RoleAdmin)})
	s.commit(&command.RevokeOperator{By: byAdmin, ID: "op-gone"})
	s.commit(&command.CreateOperator{By: byAdmin, Operator: command.Operator{
		ID: "op-late", Hash: hashOf("hfo1_late"), Role: "admin", ExpiresMS: start.Add(time.Minute).UnixMilli(),
	}})
	s.pass(time.Minute)
	s.callers = append(s.callers, caller{name: "expired", bearer: "hfo1_late"}, caller{name: "none"}, caller{name: "garbage", bearer: "hfo1_garbage"})
	slices.SortFunc(s.callers, func(a, b caller) int { return cmp.Compare(a.name, b.name) })
	return s
}

// expect is the status that a rule's request gets when the caller sends it about the site.
func (r *rule) expect(c caller, site string) int {
	allowed, foreign := cmp.Or(r.status, http.StatusOK), c.limited && site != ownSite
	switch {
	case r.public:
		return http.StatusOK
	case c.rank == 0:
		return http.StatusUnauthorized
	case r.about == coreTok && (c.rank < adminRole || c.limited):
		if strings.HasPrefix(r.route, "DELETE") && c.rank < operatorRole {
			return http.StatusForbidden // whatever the token is: nothing is given away by it
		}
		return http.StatusNotFound
	case c.rank < r.least:
		return http.StatusForbidden
	case r.about == own || r.about == coreTok:
		return allowed
	case r.about == fleet && c.limited, r.about == asked && foreign:
		return http.StatusForbidden
	case (r.about == atSite || r.about == gateway) && foreign:
		return http.StatusNotFound
	case r.about == gateway && c.limited:
		return http.StatusForbidden
	}
	return allowed
}

// send sends the rule's request about a site.
func (s *scene) send(r *rule, c caller, site string) *httptest.ResponseRecorder {
	method, target, _ := strings.Cut(s.fill[site].Replace(r.route), " ")
	ctx, cancel := context.WithCancel(s.t.(*testing.T).Context())
	if target == "/v1/events" {
		cancel() // the stream ends at once
	}
	defer cancel()
	req := request(method, target, s.fill[site].Replace(r.body)).WithContext(ctx)
	req.Header.Del("Authorization")
	if c.bearer != "" {
		as(c.bearer, req)
	}
	return s.do(req)
}

// Every route, for everybody, about what is theirs and what is not.
func TestWhoMayDoWhat(t *testing.T) {
	s := newScene(t)
	cases, statuses := 0, make(map[int]int)
	for i := range rules {
		r := &rules[i]
		for _, c := range s.callers {
			for _, site := range []string{ownSite, otherSite} {
				want := r.expect(c, site)
				world := s
				if changes := !strings.HasPrefix(r.route, "GET"); changes && want < 300 {
					world = newScene(t) // the next case must not meet what this one did
					c.bearer = world.callers[slices.IndexFunc(world.callers, func(o caller) bool { return o.name == c.name })].bearer
				}
				before := world.View().Hash()
				w := world.send(r, c, site)
				if w.Code != want {
					t.Errorf("%s as %s about %s: %d, want %d: %s", r.route+" "+r.body, c.name, site, w.Code, want, w.Body)
				}
				if want >= 300 {
					problem(t, w, w.Code)
					if world.View().Hash() != before {
						t.Errorf("%s as %s about %s: refused, and it changed the state", r.route, c.name, site)
					}
				}
				cases++
				statuses[want]++
			}
		}
	}
	t.Logf("%d cases: %v", cases, statuses)
	if cases < 500 || statuses[200] < 100 || statuses[403] < 100 || statuses[404] < 30 || statuses[401] < 100 {
		t.Errorf("%d cases, %v: the list does not cover what it should", cases, statuses)
	}
}

// A token that is unknown gets the answer, byte for byte, that one gets which has ended.
func TestOneAnswerForAllStrangers(t *testing.T) {
	s := newScene(t)
	var first *httptest.ResponseRecorder
	for _, c := range s.callers {
		if c.rank != 0 || c.bearer == "" {
			continue
		}
		w := s.do(as(c.bearer, request("GET", "/v1/whoami", "")))
		problem(t, w, http.StatusUnauthorized)
		if first == nil {
			first = w
		}
		w.Header().Del(requestIDHeader)
		if w.Body.String() != first.Body.String() || !maps.EqualFunc(w.Header(), first.Header(), slices.Equal) {
			t.Errorf("%s: %v %s, others got %v %s", c.name, w.Header(), w.Body, first.Header(), first.Body)
		}
	}
}

// The list of this test, the package's table and the OpenAPI document name the same routes, and none is without a declaration.
func TestEveryRouteIsDeclared(t *testing.T) {
	c := newCore(t)
	d, _ := openapi(t, c)
	documented := d.routes()
	if table := slices.Sorted(maps.Keys(c.server.table)); !slices.Equal(table, documented) {
		t.Errorf("table %q\ndocument %q", table, documented)
	}
	tested := make(map[string]bool)
	for i := range rules {
		method, path, _ := strings.Cut(rules[i].route, " ")
		for _, part := range []struct{ from, to string }{
			{"{device}", "{id}"},
			{"{idle}", "{id}"},
			{"slots/app", "slots/{slot}"},
			{"slots/old", "slots/{slot}"},
			{"artifacts/app@1.1", "artifacts/{id}"},
			{"{site}", "{name}"},
			{"{gatewayof}", "{site}/{name}"},
			{"{devicetoken}", "{id}"},
			{"{gatewaytoken}", "{id}"},
			{"{coretoken}", "{id}"},
			{"operators/op-1", "operators/{id}"},
			{"operators/op-99", "operators/{id}"},
			{"nodes/core-2", "nodes/{name}"},
		} {
			path = strings.Replace(path, part.from, part.to, 1)
		}
		tested[method+" "+path] = true
	}
	for _, route := range documented {
		rt := c.server.table[route]
		if !tested[route] {
			t.Errorf("%s: no rule in this test", route)
		}
		if rt != nil && !rt.access.public && (rt.access.least == registry.ActNone || rt.access.on.of == nil) {
			t.Errorf("%s: open to nobody, or about nothing: %+v", route, rt.access)
		}
	}
}

// What nobody declared is open to nobody, however it came to be registered.
func TestUndeclaredRoutesAreRefused(t *testing.T) {
	c := newCore(t)
	handled := false
	handle := func(context.Context, *call, *struct{}) (*reply[v1.Health], error) {
		handled = true
		return answer(v1.Health{}), nil
	}
	add(c.server, on(http.MethodGet, "/v1/zero", "zero", "-"), access{}, handle)
	add(c.server, on(http.MethodGet, "/v1/scopeless", "scopeless", "-"), access{least: registry.ActSee}, handle)
	add(c.server, on(http.MethodGet, "/v1/wrong", "wrong", "-").here(), see(theDevice), handle)
	huma.Register(c.server.api, on(http.MethodGet, "/v1/raw", "raw", "-").Operation, func(context.Context, *struct{}) (*reply[v1.Health], error) {
		handled = true
		return answer(v1.Health{}), nil
	})
	for path, status := range map[string]int{"/v1/zero": 403, "/v1/scopeless": 403, "/v1/wrong": 500, "/v1/raw": 403} {
		problem(t, c.do(request(http.MethodGet, path, "")), status)
	}
	// Past the gate nothing is handled, either.
	w := httptest.NewRecorder()
	c.handler.(*gate).mux.ServeHTTP(w, request(http.MethodGet, "/v1/whoami", ""))
	if problem(t, w, http.StatusUnauthorized); handled {
		t.Error("a route that nobody declared was handled")
	}
}

// What lies outside an operator's limits answers byte for byte as what does not exist.
func TestForeignIsAsIfMissing(t *testing.T) {
	s := newScene(t)
	bearer := s.operator("op-7", registry.RoleAdmin, ownSite)
	missing := strings.NewReplacer("{device}", noDevice, "{idle}", noDevice, "{site}", "plant-0", "{gatewayof}", "plant-0/gw-x", "{devicetoken}", "00000000000000ff")
	n := 0
	for i := range rules {
		r := &rules[i]
		if r.about != atSite || strings.Contains(r.route, "gatewaytoken") {
			continue
		}
		for _, who := range []string{bearer, adminToken} {
			if who == adminToken && strings.HasPrefix(r.route, "PUT") {
				continue // makes the site
			}
			method, target, _ := strings.Cut(missing.Replace(r.route), " ")
			gone := s.do(as(who, request(method, target, r.body)))
			there := s.send(r, caller{bearer: bearer}, otherSite)
			foreign := s.fill[otherSite].Replace(r.route)
			id, noID := lastID(foreign), lastID(method+" "+target)
			if got, want := strings.ReplaceAll(there.Body.String(), id, noID), gone.Body.String(); there.Code != 404 || gone.Code != 404 || got != want {
				t.Errorf("%s: %d %s, and for what is not there %d %s", foreign, there.Code, got, gone.Code, want)
			}
			if a, b := headerNames(there), headerNames(gone); !slices.Equal(a, b) {
				t.Errorf("%s: headers %q, and for what is not there %q", foreign, a, b)
			}
			n++
		}
	}
	if n < 15 {
		t.Errorf("%d comparisons", n)
	}
}

// lastID is the part of a route that names its subject.
func lastID(route string) string { return strings.Split(route, "/")[3] }

func headerNames(w *httptest.ResponseRecorder) []string { return slices.Sorted(maps.Keys(w.Header())) }

// Lists hold what the operator sees, and nothing tells that there is more.
func TestListsLeaveOut(t *testing.T) {
	s := newScene(t)
	s.gateway(ownSite, "gw")
	s.gateway(otherSite, "gw")
	limited := s.operator("op-7", registry.RoleViewer, ownSite)
	plain := s.operator("op-8", registry.RoleViewer)
	count := func(bearer, target string) int {
		w := s.do(as(bearer, request(http.MethodGet, target, "")))
		if bearer == limited && strings.Contains(w.Body.String(), otherSite) {
			t.Errorf("%s tells of %s: %s", target, otherSite, w.Body)
		}
		return len(read[v1.List[map[string]any]](t, w, http.StatusOK).Items)
	}
	for _, tc := range []struct {
		target              string
		limited, plain, all int
	}{
		{"/v1/devices", 2, 4, 4},
		{"/v1/devices?site=" + otherSite, 0, 2, 2},
		{"/v1/sites", 1, 2, 2},
		{"/v1/gateways", 2, 4, 4},
		{"/v1/tokens", 4, 8, 10}, // for devices and gateways of each site; of core nodes
	} {
		if l, p, a := count(limited, tc.target), count(plain, tc.target), count(adminToken, tc.target); l != tc.limited || p != tc.plain || a != tc.all {
			t.Errorf("%s: %d of the site, %d of all, %d with core nodes'; want %+v", tc.target, l, p, a, tc)
		}
	}
}

// A node that lags behind answers nobody who has been revoked, but for what it says it answers from its own knowledge.
func TestRevokedOnANodeThatLags(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, ownSite))
	for _, route := range slices.Sorted(maps.Keys(c.server.table)) {
		rt := c.server.table[route]
		if rt.access.public || rt.local {
			continue
		}
		bearer := c.operator(fmt.Sprintf("op-%s", rt.OperationID), registry.RoleAdmin)
		c.stall()
		c.commit(&command.RevokeOperator{By: byAdmin, ID: "op-" + rt.OperationID})
		before := c.index
		target := strings.ReplaceAll(concrete(rt.Path), someDevice, m.id.String())
		body := map[string]string{
			"create-token": `{"kind":"device","site":"plant-7"}`, "create-operator": `{"name":"x","role":"admin"}`, "set-device": `{"heartbeat_interval":"5s"}`,
			"set-tags": `{"set":{"a":"b"}}`, "set-site": `{}`, "revoke-gateway": `{}`,
			"set-slot": `{"artifact":"app@1.1"}`, "set-publishers": `{"sealed":"AA=="}`,
			"add-artifact": goodBodies["add-artifact"], "ask-content": goodBodies["ask-content"], "put-content": goodBodies["put-content"],
		}[rt.OperationID]
		w := c.do(as(bearer, request(rt.Method, target, body)))
		if p := problem(t, w, http.StatusUnauthorized); p.Type != v1.ProblemUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %+v", route, p)
		}
		if c.index != before {
			t.Errorf("%s: committed for somebody revoked", route)
		}
	}
	// A local read may be as old as the node.
	bearer := c.operator("op-local", registry.RoleViewer)
	c.stall()
	c.commit(&command.RevokeOperator{By: byAdmin, ID: "op-local"})
	if w := c.do(as(bearer, request(http.MethodGet, "/v1/devices?consistency=local", ""))); w.Code != http.StatusOK {
		t.Errorf("local read: %d", w.Code)
	}
	if w := c.do(as(bearer, request(http.MethodGet, "/v1/devices", ""))); w.Code != http.StatusUnauthorized {
		t.Errorf("read: %d", w.Code)
	}
}

// An operator that was made elsewhere a moment ago is known here at once; strangers cannot make a node ask for ever.
func TestTokenThatTheNodeDoesNotKnowYet(t *testing.T) {
	most := wide()
	most.lookupsBurst, most.lookups = 2, 0
	c := newCoreWith(t, "admin", most)
	c.stall()
	bearer := c.operator("op-2", registry.RoleViewer)
	if w := c.do(as(bearer, request(http.MethodGet, "/v1/whoami", ""))); w.Code != http.StatusOK || c.barrier != 1 {
		t.Fatalf("%d after %d barriers: %s", w.Code, c.barrier, w.Body)
	}
	for i := range 5 {
		problem(t, c.do(as("hfo1_wrong", request(http.MethodGet, "/v1/whoami", ""))), http.StatusUnauthorized)
		if want := min(i+2, 2); c.barrier != want {
			t.Errorf("attempt %d: %d barriers, want %d", i, c.barrier, want)
		}
	}
	// From elsewhere it is asked again, until all together have asked too often.
	for i := range 2 * defaultLimits.allBurst {
		r := as("hfo1_wrong", request(http.MethodGet, "/v1/whoami", ""))
		r.RemoteAddr = fmt.Sprintf("203.0.113.%d:99", i)
		problem(t, c.do(r), http.StatusUnauthorized)
	}
	if c.barrier < defaultLimits.allBurst || c.barrier >= 2*defaultLimits.allBurst {
		t.Errorf("%d barriers", c.barrier)
	}
	// When nobody can be asked, the answer is not that the token is wrong.
	c2 := newCore(t)
	c2.setRefuse(&raftstore.NotLeaderError{})
	problem(t, c2.do(as("hfo1_wrong", request(http.MethodGet, "/v1/whoami", ""))), http.StatusServiceUnavailable)
}
