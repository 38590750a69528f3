package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A hostile makes requests that are wrong in one way each.
type hostile struct {
	rng  *rand.Rand
	rt   *route
	good string // a body that would be taken; empty: the route takes none
	reqs []hostileRequest
}

// A hostileRequest is one of them. What is empty is as it should be.
type hostileRequest struct {
	why    string
	method string
	path   string
	query  string
	body   string
	change func(http.Header)
}

func (h *hostile) add(r hostileRequest) { h.reqs = append(h.reqs, r) }

// goodBodies are bodies that would be taken, by operation.
var goodBodies = map[string]string{
	"set-slot":       `{"artifact":"app@1.1","downgrade":true}`,
	"set-publishers": `{"sealed":"oQGB"}`,
	"set-device":     `{"heartbeat_interval":"5s"}`, "set-tags": `{"set":{"a":"b"},"remove":["c"]}`, "set-site": `{"heartbeat_interval":"5s"}`,
	"create-token":        `{"kind":"device","site":"plant-7","ttl":"1h","uses":3,"tags":{"a":"b"},"comment":"c"}`,
	"create-operator":     `{"name":"a","role":"viewer","sites":["plant-7"],"ttl":"1h"}`,
	"transfer-leadership": `{"to":"core-1"}`,
	"revoke-gateway":      `{"reason":"stolen"}`,
	"add-artifact":        `{"manifest":"` + wire.DigestOf([]byte("x")).String() + `","manifest_chunks":["` + wire.DigestOf([]byte("x")).String() + `"],"release":"AAAA"}`,
	"ask-content":         `{"digests":["` + wire.DigestOf([]byte("x")).String() + `"]}`,
	"put-content":         string(pack.Append(nil, piece("x"))),
}

// text is a piece of text from a small grammar: what parsers stumble over, between letters and digits.
func (h *hostile) text(n int) string {
	pieces := []string{
		"a", "Z", "0", "9", "-", "_", ".", "..", "/", "\\", "%", "%00", "%2e", "'", `"`, "<", "&", "=", ";", ",", " ", "\t", "{", "}", "[", "]", "\x00", "\x7f", "\xff",
		"ä", "\u202e", "\ufeff", "null", "true", "1e999", "-1", "0x10", "$(id)", "' OR 1=1 --", "../../etc/passwd", "\ud7ff",
	}
	var b strings.Builder
	for range 1 + h.rng.IntN(n) {
		b.WriteString(pieces[h.rng.IntN(len(pieces))])
	}
	return b.String()
}

func (h *hostile) methods() {
	for _, m := range []string{"POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "TRACE", "PROPFIND", "CONNECT", "get", "X", "\x01"} {
		if m != h.rt.Method && !sharesPath(h.rt.Path, m) {
			h.add(hostileRequest{why: "method " + m, method: m})
		}
	}
}

// sharesPath tells whether the method of the path is another route's.
func sharesPath(path, method string) bool {
	for i := range rules {
		if strings.HasPrefix(rules[i].route, method+" ") && len(strings.Split(rules[i].route, "/")) == len(strings.Split(path, "/")) {
			return true
		}
	}
	return false
}

func (h *hostile) paths() {
	for range 5 {
		h.add(hostileRequest{why: "no such path", path: h.rt.Path + "/" + url.PathEscape(h.text(3))})
	}
	for _, p := range []string{h.rt.Path + "/", "/" + h.rt.Path, "/." + h.rt.Path, h.rt.Path + "/..", h.rt.Path + "/x/../../y"} {
		h.add(hostileRequest{why: "path not clean", path: p})
	}
	head, tail, ok := strings.Cut(h.rt.Path, "{")
	if !ok {
		return
	}
	_, tail, _ = strings.Cut(tail, "}")
	for _, id := range []string{
		"%00", "%ff", "..%2f..", "%2e%2e", "A", "a%20b", "-a", "a-", "%C3%A4", strings.Repeat("a", 300), "0x1", "*", "%7Bid%7D", strings.ToUpper(someDevice),
		strings.ReplaceAll(someDevice, "-", ""), someDevice + "0", "%27", "a_b", "a.b", "op-", "op-Z", "Op-1",
	} {
		if !strings.Contains(h.rt.Path, "/sites/") || ident.CheckName("site", id) != nil {
			h.add(hostileRequest{why: "bad id", path: head + id + tail})
		}
	}
	for range 20 {
		h.add(hostileRequest{why: "random id", path: head + url.PathEscape("!"+h.text(6)) + tail})
	}
}

func (h *hostile) queries() {
	for _, q := range []string{"%", "%zz", "a=%f", "a;b", "a=1;b=2", "%ff=1", "x=%fe%ff", "limit=1&limit=1", "x&x", "=1", "&=", "[]=1", "LIMIT=1", "consistency=LOCAL", "consistency=local%00"} {
		h.add(hostileRequest{why: "query", query: q})
	}
	for range 25 {
		h.add(hostileRequest{why: "random parameter", query: "q" + url.QueryEscape(h.text(4)) + "=" + url.QueryEscape(h.text(4))})
	}
	bad := map[string][]string{
		"limit":  {"0", "-1", "1001", "1.5", "1e2", "ten", "0x10", "٣", "99999999999999999999", " 1", "+"},
		"cursor": {"A", "AQ", "!!!!", "AQAAAAAAAAAAAAAA", strings.Repeat("A", 257), "%00", "next"}, "order": {"up", "ASC"}, "state": {"gone"}, "presence": {"maybe"},
		"site": {"A", "-", "a/b", strings.Repeat("a", 64)}, "consistency": {"eventual", "LINEARIZABLE"}, "after": {"-1", "x", "1e3", "99999999999999999999999", "0x1"},
		"device": {"x", strings.ToUpper(someDevice)}, "type": {"device.exploded"},
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) { // a parameter that the route does not have is refused as such
		for _, v := range bad[name] {
			h.add(hostileRequest{why: "value of " + name, query: name + "=" + url.QueryEscape(v)})
		}
	}
}

func (h *hostile) headers() {
	set := func(name string, values ...string) func(http.Header) {
		return func(hd http.Header) { hd[name] = values }
	}
	h.add(hostileRequest{why: "headers", change: func(hd http.Header) {
		for i := range maxHeaders {
			hd.Set(fmt.Sprintf("X-%d", i), "v")
		}
	}})
	if !h.rt.access.public {
		for _, v := range []string{
			"", "Bearer", "Bearer ", "Basic " + adminToken, adminToken, "Bearer  " + adminToken, "Bearer " + adminToken + " ", "Bearer " + strings.ToUpper(adminToken),
			"Bearer " + adminToken[1:], "Digest x", "Bearer \x00", "Bearer " + strings.Repeat("x", 9000), "Bearer hf1_AAAA", "Bearer null",
		} {
			h.add(hostileRequest{why: "token", change: set("Authorization", v)})
		}
		h.add(hostileRequest{why: "no token", change: set("Authorization")})
		h.add(hostileRequest{why: "two tokens", change: set("Authorization", "Bearer "+adminToken, "Bearer "+adminToken)})
		for range 10 {
			h.add(hostileRequest{why: "random token", change: set("Authorization", "Bearer "+h.text(8))})
		}
	}
	if !h.rt.changes() {
		return
	}
	for _, v := range []string{"", "ä", "a\tb", "\x00", strings.Repeat("k", 129)} {
		h.add(hostileRequest{why: "idempotency key", body: h.good, change: set(keyHeader, v)})
	}
	h.add(hostileRequest{why: "two idempotency keys", body: h.good, change: set(keyHeader, "a", "b")})
	for _, v := range []string{"", "r1", `"r"`, `"1"`, `W/"r1"`, `"r0"`, `"r1", "r2"`, `"r99999999999999999999"`, "\x00", `"*"`, "* ", `"r999"`} {
		h.add(hostileRequest{why: "If-Match " + v, body: h.good, change: set("If-Match", v)})
	}
	if h.good == "" {
		return
	}
	for _, v := range []string{"text/plain", "application/xml", "multipart/form-data; boundary=x", "application/cbor", "application/problem+json", "application/jsonx", "json/application"} {
		h.add(hostileRequest{why: "content type " + v, body: h.good, change: set("Content-Type", v)})
	}
	for _, v := range []string{"gzip", "br", "identity, gzip", "x"} {
		h.add(hostileRequest{why: "content encoding " + v, body: h.good, change: set("Content-Encoding", v)})
	}
}

func (h *hostile) bodies() {
	for _, b := range []string{
		" ", "[", "{", "}", "nul", "\x00", "\xff\xfe{}", "\ufeff{}", "{}{}", "{} x", "[]", `"x"`, "17", "-", "NaN", `{"a":1,"a":2}`, `{"A":1}`, `{"ä":1}`, `{"x":1}`, `{"":1}`,
		`{"x":"\ud800"}`, "{\"x\":\"\xc3\x28\"}", `{"n":1e999}`, `{'a':1}`, `{a:1}`, strings.Repeat("[", 100), strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40),
		strings.Repeat("[", 60_000), strings.Repeat(" ", maxBody+1), `{"x":"` + strings.Repeat("a", maxBody) + `"}`,
	} {
		h.add(hostileRequest{why: "body", body: b})
	}
	if h.good == "" {
		h.add(hostileRequest{why: "body where none is taken", body: "{}"})
		h.add(hostileRequest{why: "body where none is taken", body: "null"})
		return
	}
	for i := 1; i < len(h.good); i += 1 + h.rng.IntN(3) {
		h.add(hostileRequest{why: "cut off", body: h.good[:i]})
		h.add(hostileRequest{why: "a byte too many", body: h.good[:i] + []string{"\x00", "\xff", "\x1f"}[h.rng.IntN(3)] + h.good[i:]})
	}
	if !json.Valid([]byte(h.good)) {
		return
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(h.good), &fields); err != nil {
		panic(err)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, wrong := range []string{"true", "1.5", "-1", `"\u0000"`, `["a",{}]`, `{"a":[]}`, `"` + strings.Repeat("x", 5000) + `"`, "1e400"} {
			var v any
			with := maps.Clone(fields)
			delete(with, name)
			rest, err := json.Marshal(with)
			if err != nil {
				panic(err)
			}
			if json.Unmarshal([]byte(wrong), &v) == nil || strings.HasPrefix(wrong, "1e") {
				sep := ","
				if len(with) == 0 {
					sep = ""
				}
				h.add(hostileRequest{why: "type of " + name, body: string(rest[:len(rest)-1]) + sep + fmt.Sprintf("%q:%s}", name, wrong)})
			}
		}
	}
	for range 20 {
		h.add(hostileRequest{why: "random field", body: fmt.Sprintf(`{%q:%q}`, h.text(4), h.text(4))})
	}
}

// send makes the request and serves it.
func (h *hostile) send(c *core, q *hostileRequest) *httptest.ResponseRecorder {
	body := q.body
	if body == "" && q.change == nil && q.query+q.path+q.method != "" {
		body = h.good // only one thing is wrong
	}
	r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
	r.Method = h.rt.Method
	if q.method != "" {
		r.Method = q.method
	}
	path := h.rt.Path
	if q.path != "" {
		path = q.path
	}
	r.URL = &url.URL{Path: "/"}
	raw := concrete(path)
	if p, err := url.PathUnescape(raw); err == nil {
		r.URL.Path, r.URL.RawPath = p, raw
	}
	r.URL.RawQuery = q.query
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", contentType(path))
	if q.change != nil {
		q.change(r.Header)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // of what would be taken nothing is to wait
	if h.rt.time == 0 {
		r = r.WithContext(ctx)
	}
	return c.do(r)
}

// Over a hundred requests to each route, each wrong in some way: every answer is a problem and the sender's fault, nothing
// panics, and nothing changes.
func TestHostileRequests(t *testing.T) {
	c := newCore(t)
	id, err := ident.ParseDeviceID(someDevice)
	if err != nil {
		t.Fatal(err)
	}
	c.enrollAs(c.token(seal.KindDevice, "plant-7"), id)
	before := c.View().Hash()
	total := 0
	for _, route := range slices.Sorted(maps.Keys(c.server.table)) {
		rt := c.server.table[route]
		h := &hostile{rng: rand.New(rand.NewPCG(1, uint64(len(route)))), rt: rt, good: goodBodies[rt.OperationID]}
		if rt.body != (h.good != "") {
			t.Errorf("%s: the test has no good body", route)
		}
		for _, f := range []func(){h.methods, h.paths, h.queries, h.headers, h.bodies} {
			f()
		}
		statuses := make(map[int]int)
		for i := range h.reqs {
			q := &h.reqs[i]
			w := h.send(c, q)
			statuses[w.Code]++
			if w.Code < 400 || w.Code >= 500 {
				t.Errorf("%s, %s: %d for path %.80q, query %.80q, body %.120q: %.200s", route, q.why, w.Code, q.path, q.query, q.body, w.Body)
				continue
			}
			problem(t, w, w.Code)
		}
		if c.View().Hash() != before {
			t.Fatalf("%s: the state has changed", route)
		}
		if len(h.reqs) < 100 {
			t.Errorf("%s: only %d requests", route, len(h.reqs))
		}
		t.Logf("%-42s %3d requests: %v", route, len(h.reqs), statuses)
		total += len(h.reqs)
	}
	t.Logf("%d requests", total)
	if strings.Contains(c.log.String(), "panic") {
		t.Errorf("log: %s", c.log)
	}
}
