package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// keyed sends a request with an idempotency key.
func (c *core) keyed(key, method, target, body string) *httptest.ResponseRecorder {
	r := request(method, target, body)
	r.Header.Set(keyHeader, key)
	return c.do(r)
}

// A change with a key takes effect once, and its repetition gets the same reply, secrets included.
func TestRepeatedChanges(t *testing.T) {
	for _, tc := range []struct{ method, target, body, same, other string }{
		{"POST", "/v1/tokens", `{"kind":"device","site":"a","uses":2}`, ` { "uses" : 2,"site":"a", "kind":"\u0064evice"}`, `{"kind":"device","site":"b","uses":2}`},
		{"POST", "/v1/tokens", `{"kind":"core"}`, `{"kind":"core"}`, `{"kind":"core","ttl":"5m"}`},
		{"POST", "/v1/operators", `{"name":"ada","role":"viewer"}`, `{"role":"viewer","name":"ada"}`, `{"name":"ada","role":"admin"}`},
		{"PUT", "/v1/sites/plant-7", `{"heartbeat_interval":"5s"}`, "", `{"heartbeat_interval":"6s"}`},
		{"PATCH", "/v1/devices/{id}", `{"heartbeat_interval":"5s"}`, "", `{"heartbeat_interval":"6s"}`},
		{"PATCH", "/v1/devices/{id}/tags", `{"set":{"a":"1","b":"2"}}`, `{"set":{"b":"2","a":"1"}}`, `{"set":{"a":"1"}}`},
		{"POST", "/v1/devices/{id}/release", "", "", ""},
		{"DELETE", "/v1/tokens/{token}", "", "", ""},
		{"DELETE", "/v1/operators/op-2", "", "", ""},
		{"DELETE", "/v1/cluster/nodes/core-2", "", "", ""},
	} {
		c := newCore(t)
		c.join("core-2")
		c.operator("op-2", registry.RoleAdmin)
		tok := c.token(seal.KindDevice, "plant-7")
		m := c.enroll(tok)
		for run := range 2 {
			c.commit(&command.Presence{Gateway: "plant-7/gw", Items: []command.PresenceItem{{
				Device: m.id, Online: true, AtMS: start.UnixMilli(), Attach: &command.Attach{Start: 1, Run: uint64(run), Session: 1},
			}}})
		}
		target := strings.NewReplacer("{id}", m.id.String(), "{token}", tok.String()).Replace(tc.target)
		name := tc.method + " " + tc.target + " " + tc.body
		first := c.keyed("k 1", tc.method, target, tc.body)
		if first.Code >= 300 || first.Header().Get(replayedHeader) != "" {
			t.Errorf("%s: %d %s, replayed %q", name, first.Code, first.Body, first.Header().Get(replayedHeader))
			continue
		}
		trail := c.View().Audit().Count
		same := tc.same
		if same == "" {
			same = tc.body
		}
		for range 2 {
			again := c.keyed("k 1", tc.method, target, same)
			if again.Code != first.Code || again.Header().Get(replayedHeader) != "true" || again.Header().Get("ETag") != first.Header().Get("ETag") {
				t.Errorf("%s, repeated: %d %s, replayed %q", name, again.Code, again.Body, again.Header().Get(replayedHeader))
			}
			if !sameReply(t, first.Body.Bytes(), again.Body.Bytes()) {
				t.Errorf("%s, repeated: %s, the first time %s", name, again.Body, first.Body)
			}
		}
		if tc.other != "" {
			if p := problem(t, c.keyed("k 1", tc.method, target, tc.other), http.StatusConflict); p.Type != v1.ProblemReused {
				t.Errorf("%s, with another body: %+v", name, p)
			}
		}
		// A key belongs to a route, too; and to an operator.
		if p := problem(t, c.keyed("k 1", "PUT", "/v1/sites/other", "{}"), http.StatusConflict); p.Type != v1.ProblemReused {
			t.Errorf("%s, on another route: %+v", name, p)
		}
		if got := c.View().Audit().Count; got != trail {
			t.Errorf("%s: %d records more on the trail", name, got-trail)
		}
		bearer := c.operator("op-3", registry.RoleAdmin)
		r := as(bearer, request("PUT", "/v1/sites/other", "{}"))
		r.Header.Set(keyHeader, "k 1")
		if w := c.do(r); w.Code != http.StatusOK || w.Header().Get(replayedHeader) != "" {
			t.Errorf("another operator's key: %d %s", w.Code, w.Body)
		}
	}
}

// sameReply compares replies but for what is as of the moment of each.
func sameReply(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y map[string]any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		t.Fatalf("%s, %s", a, b)
	}
	for _, m := range []map[string]any{x, y} {
		delete(m, "index") // how far the node has come
	}
	return reflect.DeepEqual(x, y)
}

// A key stands for one route as it does for one body.
func TestKeysBelongToTheirRoute(t *testing.T) {
	c := newCore(t)
	if w := c.keyed("k", "PUT", "/v1/sites/a", "{}"); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if p := problem(t, c.keyed("k", "PUT", "/v1/sites/b", "{}"), http.StatusConflict); p.Type != v1.ProblemReused {
		t.Errorf("got %+v", p)
	}
}

// Without a key each request takes effect, and with another key, too.
func TestWithoutAKeyNothingIsRepeated(t *testing.T) {
	c := newCore(t)
	seen := make(map[string]bool)
	for _, key := range []string{"", "", "a", "b", strings.Repeat("~", maxKey)} {
		r := request("POST", "/v1/tokens", `{"kind":"device","site":"a"}`)
		if key != "" {
			r.Header.Set(keyHeader, key)
		}
		made := read[v1.NewToken](t, c.do(r), http.StatusCreated)
		secret, err := seal.ParseToken(made.Token)
		if err != nil || seen[made.ID] || secret.ID.String() != made.ID || secret.Pin[0] != 7 {
			t.Errorf("key %q: %+v, %v", key, made, err)
		}
		rec, _ := c.View().Token(secret.ID)
		if rec == nil || !secret.Public().Equal(secret.Public()) || string(rec.Public) != string(secret.Public()) {
			t.Errorf("key %q: the record is of another secret", key)
		}
		seen[made.ID] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d tokens", len(seen))
	}
	// A secret depends on all that it is derived from: the operator, the key, and what is asked.
	bearers := make(map[string]bool)
	other := c.operator("op-2", registry.RoleAdmin)
	for _, who := range []string{adminToken, other} {
		for _, key := range []string{"x", "y"} {
			for _, body := range []string{`{"name":"a","role":"viewer"}`, `{"name":"b","role":"viewer"}`} {
				r := as(who, request("POST", "/v1/operators", body))
				r.Header.Set(keyHeader, key+body[9:10])
				bearers[read[v1.NewOperator](t, c.do(r), http.StatusCreated).Token] = true
			}
		}
	}
	if len(bearers) != 8 {
		t.Errorf("%d of 8 bearers differ: %q", len(bearers), slices.Collect(maps.Keys(bearers)))
	}
}

func TestBadKeys(t *testing.T) {
	c := newCore(t)
	before := c.View().Hash()
	for name, keys := range map[string][]string{
		"empty": {""}, "long": {strings.Repeat("k", maxKey+1)}, "two": {"a", "b"}, "twice": {"a", "a"}, "not ASCII": {"ä"}, "control": {"a\tb"}, "delete": {"\x7f"},
	} {
		r := request("POST", "/v1/tokens", `{"kind":"device","site":"a"}`)
		r.Header[keyHeader] = keys
		if p := problem(t, c.do(r), http.StatusBadRequest); !strings.Contains(p.Detail, keyHeader) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if c.View().Hash() != before {
		t.Error("the state has changed")
	}
}

// After a day a key is forgotten. What it made then is not made twice, and not shown again.
func TestKeysAreForgotten(t *testing.T) {
	c := newCore(t)
	for _, tc := range []struct{ target, body, other string }{
		{"/v1/tokens", `{"kind":"device","site":"a"}`, `{"kind":"device","site":"b"}`},
		{"/v1/operators", `{"name":"ada","role":"viewer"}`, `{"name":"bea","role":"viewer"}`},
	} {
		if w := c.keyed("k"+tc.target, "POST", tc.target, tc.body); w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		c.pass(25 * time.Hour)
		c.keyed("other"+tc.target, "PUT", "/v1/sites/a", "{}") // what is too old is forgotten with the next key
		if p := problem(t, c.keyed("k"+tc.target, "POST", tc.target, tc.body), http.StatusConflict); p.Type != v1.ProblemReused || !strings.Contains(p.Detail, "a day ago") {
			t.Errorf("%s: %+v", tc.target, p)
		}
		if w := c.keyed("k"+tc.target, "POST", tc.target, tc.other); w.Code != http.StatusCreated { // with secrets of its own
			t.Errorf("%s, another request: %d %s", tc.target, w.Code, w.Body)
		}
	}
}

// When the core's keys are changed between a request and its repetition, the secret is lost, and a wrong one is not shown.
func TestSecretsThatCannotBeShownAgain(t *testing.T) {
	c := newCore(t)
	for _, tc := range []struct{ target, body string }{
		{"/v1/tokens", `{"kind":"device","site":"a"}`}, {"/v1/operators", `{"name":"ada","role":"viewer"}`},
	} {
		c.deriveKey = []byte("before")
		c.keyed("k"+tc.target, "POST", tc.target, tc.body)
		c.deriveKey = []byte("after")
		w := c.keyed("k"+tc.target, "POST", tc.target, tc.body)
		if p := problem(t, w, http.StatusConflict); p.Type != v1.ProblemConflict || strings.Contains(w.Body.String(), "1_") {
			t.Errorf("%s: %+v", tc.target, p)
		}
	}
}

// An ETag names what was read; a change on its condition is refused once somebody else made one.
func TestPreconditions(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	device := "/v1/devices/" + m.id.String()
	change := func(method, target, body, tag string) *httptest.ResponseRecorder {
		r := request(method, target, body)
		r.Header.Set("If-Match", tag)
		return c.do(r)
	}
	ask[v1.Site](c, "PUT", "/v1/sites/plant-7", "{}", http.StatusOK)
	for _, tc := range []struct{ get, method, target, body, none string }{
		{device, "PATCH", device, `{"heartbeat_interval":"5s"}`, `{}`},
		{device, "PATCH", device + "/tags", `{"set":{"a":"b"}}`, `{}`},
		{"/v1/sites/plant-7", "PUT", "/v1/sites/plant-7", `{"heartbeat_interval":"5s"}`, ""},
	} {
		old := c.do(request("GET", tc.get, "")).Header().Get("ETag")
		if _, ok := parseTag(old); !ok {
			t.Fatalf("%s: ETag %q", tc.get, old)
		}
		if tc.none != "" {
			if w := change(tc.method, tc.target, tc.none, old); w.Code != http.StatusOK || w.Header().Get("ETag") != old {
				t.Errorf("%s with no change: %d, ETag %q", tc.target, w.Code, w.Header().Get("ETag"))
			}
		}
		w := change(tc.method, tc.target, tc.body, old)
		now := w.Header().Get("ETag")
		if got := c.do(request("GET", tc.get, "")).Header().Get("ETag"); w.Code != http.StatusOK || now == old || got != now {
			t.Errorf("%s: %d, ETag was %q, reply %q, is %q", tc.target, w.Code, old, now, got)
		}
		before := c.View().Hash()
		for _, body := range []string{tc.body, tc.none} {
			if body == "" {
				continue
			}
			if p := problem(t, change(tc.method, tc.target, body, old), http.StatusPreconditionFailed); p.Type != v1.ProblemPrecondition {
				t.Errorf("%s: %+v", tc.target, p)
			}
		}
		for _, tag := range []string{"r1", `"r"`, `"r0"`, `"r01"`, `W/"r1"`, `"x1"`, `"r1", "r2"`, `"r-1"`, `"r18446744073709551616"`, "", `"r1`, strings.Repeat(`"`, 90)} {
			if p := problem(t, change(tc.method, tc.target, tc.body, tag), http.StatusBadRequest); !strings.Contains(p.Detail, "If-Match") {
				t.Errorf("%s with %q: %+v", tc.target, tag, p)
			}
		}
		if c.View().Hash() != before {
			t.Errorf("%s: a change that was refused changed the state", tc.target)
		}
		if w := change(tc.method, tc.target, tc.body, "*"); w.Code != http.StatusOK {
			t.Errorf("%s with *: %d", tc.target, w.Code)
		}
	}
	problem(t, change("POST", device+"/release", "", `"r1"`), http.StatusPreconditionFailed)
	problem(t, change("POST", "/v1/tokens", `{"kind":"device","site":"a"}`, `"r1"`), http.StatusBadRequest)
	if w := change("GET", device, "", `"r1"`); w.Code != http.StatusOK {
		t.Errorf("GET: %d", w.Code)
	}
	// Presence is not part of it.
	tag := c.do(request("GET", device, "")).Header().Get("ETag")
	c.online(m, "plant-7/gw", c.wall(), 1)
	if got := c.do(request("GET", device, "")).Header().Get("ETag"); got != tag {
		t.Errorf("ETag %q, was %q", got, tag)
	}
	// What nobody has changed has none; lists have none.
	c.token(seal.KindDevice, "plant-9")
	for _, path := range []string{"/v1/sites/plant-9", "/v1/devices", "/v1/sites"} {
		if got := c.do(request("GET", path, "")).Header().Get("ETag"); got != "" {
			t.Errorf("%s: ETag %q", path, got)
		}
	}
}

// A repetition with a condition is still a repetition, though its own first time broke the condition.
func TestRepetitionOnACondition(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	target := "/v1/devices/" + m.id.String()
	tag := c.do(request("GET", target, "")).Header().Get("ETag")
	for i, want := range []string{"", "true"} {
		r := request("PATCH", target, `{"heartbeat_interval":"5s"}`)
		r.Header.Set("If-Match", tag)
		r.Header.Set(keyHeader, "k")
		if w := c.do(r); w.Code != http.StatusOK || w.Header().Get(replayedHeader) != want {
			t.Errorf("time %d: %d %s", i, w.Code, w.Body)
		}
	}
	for _, body := range []string{`{"heartbeat_interval":"6s"}`, `{}`} { // the first is left to the registry
		r := request("PATCH", target, body)
		r.Header.Set("If-Match", tag)
		r.Header.Set(keyHeader, "another")
		problem(t, c.do(r), http.StatusPreconditionFailed)
	}
}
