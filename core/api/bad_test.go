package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A badCase is a request that must be refused with a problem whose detail holds all the words of says.
type badCase struct {
	method, target, body string
	status               int
	says                 string
}

const (
	someDevice = "0b5c1f7e-3f0a-4d43-9d8e-5a1b8f5f2d10" // enrolled in these tests
	noDevice   = "ffffffff-3f0a-4d43-9d8e-5a1b8f5f2d10"
)

// refuse runs the cases and checks that none changes the state.
func refuse(t *testing.T, cases []badCase) {
	t.Helper()
	c := newCore(t)
	id, err := ident.ParseDeviceID(someDevice)
	if err != nil {
		t.Fatal(err)
	}
	c.enrollAs(c.token(seal.KindDevice, "plant-7"), id)
	before := c.View().Index()
	for _, tc := range cases {
		name := tc.method + " " + tc.target + " " + tc.body[:min(len(tc.body), 60)]
		r := httptest.NewRequest(tc.method, "/", strings.NewReader(tc.body))
		if r.URL, err = url.ParseRequestURI(tc.target); err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+adminToken)
		t.Log(name)
		w := c.do(r)
		p := problem(t, w, tc.status)
		if allow := w.Header().Get("Allow"); (allow != "") != (tc.status == http.StatusMethodNotAllowed) {
			t.Errorf("%s: Allow %q", name, allow)
		}
		for word := range strings.FieldsSeq(tc.says) {
			if !strings.Contains(p.Detail, word) {
				t.Errorf("%s: %q is not in %q", name, word, p.Detail)
			}
		}
	}
	if got := c.View().Index(); got != before {
		t.Errorf("the state's index went from %d to %d", before, got)
	}
}

func TestBadRoutes(t *testing.T) {
	refuse(t, []badCase{
		{"GET", "/", "", 404, "path"},
		{"GET", "/v1", "", 404, "path"},
		{"GET", "/v2/devices", "", 404, "path openapi.json"},
		{"GET", "/v1/devices/", "", 404, "path"},
		{"GET", "//v1/devices", "", 404, "path"},
		{"GET", "/v1/./devices", "", 404, "path"},
		{"GET", "/v1/sites/../devices", "", 404, "path"},
		{"GET", "/v1/devices/" + someDevice + "/nothing", "", 404, "path"},
		{"GET", "/docs", "", 404, "path"},
		{"GET", "/schemas/Device.json", "", 404, "path"},
		{"GET", "/openapi.yaml", "", 404, "path"},
		{"PUT", "/v1/devices", "", 405, "method GET"},
		{"POST", "/v1/whoami", "", 405, "method GET"},
		{"DELETE", "/v1/sites/plant-7", "", 405, "method PUT"},
		{"PROPFIND", "/v1/tokens", "", 405, "method POST"},
		{"POST", "/healthz", "", 405, "method GET"},
	})
}

func TestBadPathsAndQueries(t *testing.T) {
	refuse(t, []badCase{
		{"GET", "/v1/devices/xyz", "", 422, "path.id UUID"},
		{"GET", "/v1/devices/" + strings.ToUpper(someDevice), "", 422, "path.id lower-case"},
		{"GET", "/v1/devices/" + strings.ReplaceAll(someDevice, "-", ""), "", 422, "path.id"},
		{"GET", "/v1/devices/%00", "", 422, "path.id"},
		{"GET", "/v1/devices/..%2f..%2fetc", "", 422, "path.id"},
		{"GET", "/v1/devices/" + strings.Repeat("a", 5000), "", 422, "path.id"},
		{"GET", "/v1/devices/" + noDevice, "", 404, noDevice},
		{"GET", "/v1/devices/" + noDevice + "/history", "", 404, noDevice},
		{"GET", "/v1/devices/" + noDevice + "/presence", "", 404, noDevice},
		{"GET", "/v1/devices/zzz/history", "", 422, "path.id"},
		{"GET", "/v1/devices/zzz/presence", "", 422, "path.id"},
		{"GET", "/v1/devices/" + someDevice + "/history?order=up", "", 422, "query.order asc"},
		{"GET", "/v1/devices/" + someDevice + "/history?limit=0", "", 422, "query.limit"},
		{"GET", "/v1/devices/" + someDevice + "/presence?cursor=AAAA", "", 422, "query.cursor"},
		{"GET", "/v1/devices?limit=0", "", 422, "query.limit 1"},
		{"GET", "/v1/devices?limit=1001", "", 422, "query.limit 1000"},
		{"GET", "/v1/devices?limit=-5", "", 422, "query.limit"},
		{"GET", "/v1/devices?limit=ten", "", 422, "query.limit integer"},
		{"GET", "/v1/devices?limit=99999999999999999999", "", 422, "query.limit integer"},
		{"GET", "/v1/devices?limit=5&limit=6", "", 422, "query.limit once"},
		{"GET", "/v1/devices?cursor=!!!", "", 422, "query.cursor"},
		{"GET", "/v1/devices?cursor=" + strings.Repeat("A", 4000), "", 422, "query.cursor"},
		{"GET", "/v1/devices?site=Plant", "", 422, "query.site"},
		{"GET", "/v1/devices?site=" + strings.Repeat("a", 64), "", 422, "query.site"},
		{"GET", "/v1/devices?state=gone", "", 422, "query.state"},
		{"GET", "/v1/devices?presence=maybe", "", 422, "query.presence"},
		{"GET", "/v1/devices?sites=x", "", 422, "query.sites unknown"},
		{"GET", "/v1/devices?consistency=eventual", "", 422, "query.consistency"},
		{"GET", "/v1/devices?limit=%zz", "", 400, "query"},
		{"GET", "/v1/devices?a=1;b=2", "", 400, "query"},
		{"GET", "/v1/devices?site=%ff%fe", "", 400, "query UTF-8"},
		{"GET", "/v1/tokens/12", "", 422, "path.id hex"},
		{"GET", "/v1/tokens/0123456789ABCDEF", "", 422, "path.id hex"},
		{"GET", "/v1/tokens/0123456789abcdef", "", 404, "0123456789abcdef"},
		{"GET", "/v1/tokens?cursor=AQ", "", 422, "query.cursor"},
		{"DELETE", "/v1/tokens/0123456789abcdef", "", 404, "0123456789abcdef"},
		{"DELETE", "/v1/tokens/x", "", 422, "path.id"},
		{"DELETE", "/v1/tokens/0123456789abcdef?force=1", "", 422, "query.force"},
		{"GET", "/v1/sites/plant_7", "", 422, "path.name"},
		{"GET", "/v1/sites/plant-9", "", 404, "plant-9"},
		{"GET", "/v1/sites?limit=x", "", 422, "query.limit"},
		{"GET", "/v1/gateways?cursor=x", "", 422, "query.cursor"},
		{"GET", "/v1/events?after=soon", "", 422, "query.after"},
		{"GET", "/v1/events?after=0.1", "", 422, "query.after"},
		{"GET", "/v1/events?after=1.", "", 422, "query.after"},
		{"GET", "/v1/events?after=-1", "", 422, "query.after"},
		{"GET", "/v1/events?after=1.99999999999", "", 422, "query.after"},
		{"GET", "/v1/events?device=x", "", 422, "query.device"},
		{"GET", "/v1/events?site=X", "", 422, "query.site"},
		{"GET", "/v1/events?type=device.exploded", "", 422, "query.type device.online"},
		{"GET", "/v1/whoami?x=1", "", 422, "query.x"},
	})
}

func TestBadBodies(t *testing.T) {
	const device, tags, site, tokens = "/v1/devices/" + someDevice, "/v1/devices/" + someDevice + "/tags", "/v1/sites/plant-7", "/v1/tokens"
	deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
	var tooMany strings.Builder
	for i := range 65 {
		fmt.Fprintf(&tooMany, `,"k%d":"v"`, i)
	}
	var cases []badCase
	for _, target := range []struct{ method, path string }{{"PATCH", device}, {"PATCH", tags}, {"PUT", site}, {"POST", tokens}} {
		for _, tc := range []badCase{
			{body: "", status: 400, says: "body required"},
			{body: " ", status: 400, says: "body"},
			{body: "{", status: 400, says: "body JSON"},
			{body: "{}}", status: 400, says: "body more"},
			{body: "{} {}", status: 400, says: "body more"},
			{body: "nul", status: 400, says: "body JSON"},
			{body: "\xff\xfe{}", status: 400, says: "body UTF-8"},
			{body: "{\"a\":\"\xc3\x28\"}", status: 400, says: "body UTF-8"},
			{body: "\x00", status: 400, says: "body"},
			{body: "\ufeff{}", status: 400, says: "body"},
			{body: deep, status: 400, says: "body 32 levels"},
			{body: strings.Repeat("[", 60_000), status: 400, says: "body 32 levels"},
			{body: strings.Repeat(" ", maxBody) + "{}", status: 413, says: "body 65536"},
			{body: `{"n":1e999}`, status: 400, says: "body"},
			{body: "null", status: 422, says: "body object"},
			{body: "[]", status: 422, says: "body object"},
			{body: `"x"`, status: 422, says: "body object"},
			{body: "17", status: 422, says: "body object"},
			{body: `{"surprise":1}`, status: 422, says: "body unexpected"},
		} {
			tc.method, tc.target = target.method, target.path
			if target.path == tokens && strings.HasPrefix(tc.body, `{"sur`) {
				tc.says = "body required" // of the two things that are wrong, the first
			}
			cases = append(cases, tc)
		}
	}
	refuse(t, append(cases, []badCase{
		{"PATCH", device, `{"heartbeat_interval":"999ms"}`, 422, "body.heartbeat_interval 1s"},
		{"PATCH", device, `{"heartbeat_interval":"61m"}`, 422, "body.heartbeat_interval"},
		{"PATCH", device, `{"heartbeat_interval":"1.0000001s"}`, 422, "body.heartbeat_interval milliseconds"},
		{"PATCH", device, `{"heartbeat_interval":"soon"}`, 422, "body.heartbeat_interval"},
		{"PATCH", device, `{"heartbeat_interval":5}`, 422, "body.heartbeat_interval string"},
		{"PATCH", device, `{"Heartbeat_interval":"2s"}`, 400, "Heartbeat_interval lower-case"},
		{"PATCH", device, `{"heartbeat_interval":"2s","heartbeat_interval":"3s"}`, 400, "heartbeat_interval twice"},
		{"PATCH", "/v1/devices/x", `{}`, 422, "path.id"},
		{"POST", "/v1/devices/x/release", "", 422, "path.id"},
		{"POST", "/v1/devices/" + noDevice + "/release", "", 404, noDevice},
		{"PATCH", "/v1/devices/" + noDevice, `{}`, 404, noDevice},
		{"PATCH", "/v1/devices/" + noDevice, `{"heartbeat_interval":"2s"}`, 404, noDevice},
		{"PATCH", "/v1/devices/" + noDevice + "/tags", `{"set":{"a":"b"}}`, 404, noDevice},
		{"PATCH", "/v1/devices/x/tags", `{"set":{"a":"b"}}`, 422, "path.id"},
		{"PATCH", tags, `{"set":{"site":"plant-8"}}`, 422, "body.set.site reserved"},
		{"PATCH", tags, `{"remove":["site"]}`, 422, "body.remove[0] reserved"},
		{"PATCH", tags, `{"set":{"":"x"}}`, 422, "body.set key"},
		{"PATCH", tags, `{"set":{"-a":"x"}}`, 422, "body.set.-a"},
		{"PATCH", tags, `{"set":{"Line":"x"}}`, 400, "Line lower-case"},
		{"PATCH", tags, `{"set":{"line":1}}`, 422, "body.set.line string"},
		{"PATCH", tags, `{"set":{"line":null}}`, 422, "body.set.line string"},
		{"PATCH", tags, `{"set":{"line":"a\u0000b"}}`, 422, "body.set.line print"},
		{"PATCH", tags, `{"set":{"line":"a\ud800b"}}`, 400, "body.set.line Unicode"},
		{"PATCH", tags, `{"set":{"line":"` + strings.Repeat("x", 257) + `"}}`, 422, "body.set.line 257"},
		{"PATCH", tags, `{"set":{"` + strings.Repeat("k", 64) + `":"x"}}`, 422, "body.set"},
		{"PATCH", tags, `{"set":{"z":"v"` + tooMany.String() + `}}`, 422, "body.set 66"},
		{"PATCH", tags, `{"set":{"line":"1"},"remove":["line"]}`, 422, "body.remove[0] set"},
		{"PATCH", tags, `{"remove":["a","b c"]}`, 422, "body.remove[1]"},
		{"PATCH", tags, `{"remove":"a"}`, 422, "body.remove array"},
		{"PATCH", tags, `{"remove":[` + strings.Repeat(`"a",`, 64) + `"a"]}`, 422, "body.remove 64"},
		{"PUT", "/v1/sites/Plant", `{}`, 422, "path.name"},
		{"PUT", "/v1/sites/" + strings.Repeat("a", 64), `{}`, 422, "path.name"},
		{"PUT", site, `{"heartbeat_interval":"0s"}`, 422, "body.heartbeat_interval"},
		{"PUT", site, `{"heartbeat_interval":true}`, 422, "body.heartbeat_interval"},
	}...))
}

func TestBadTokens(t *testing.T) {
	const tokens = "/v1/tokens"
	refuse(t, []badCase{
		{"POST", tokens, `{}`, 422, "body kind required"},
		{"POST", tokens, `{"kind":"core","site":"a"}`, 422, "body.site core"},
		{"POST", tokens, `{"kind":"core","uses":2}`, 422, "body.uses one"},
		{"POST", tokens, `{"kind":"core","ttl":"16m"}`, 422, "body.ttl 15m"},
		{"POST", tokens, `{"kind":"core","tags":{"b":"b"}}`, 422, "body.tags core"},
		{"POST", tokens, `{"kind":"toaster","site":"a"}`, 422, "body.kind"},
		{"POST", tokens, `{"kind":"device"}`, 422, "body.site missing"},
		{"POST", tokens, `{"kind":"gateway"}`, 422, "body.site missing"},
		{"POST", tokens, `{"kind":"device","site":"Plant"}`, 422, "body.site"},
		{"POST", tokens, `{"kind":"device","site":"a/b"}`, 422, "body.site"},
		{"POST", tokens, `{"kind":"device","site":"a","ttl":"59s"}`, 422, "body.ttl 1m"},
		{"POST", tokens, `{"kind":"device","site":"a","ttl":"721h"}`, 422, "body.ttl 720h"},
		{"POST", tokens, `{"kind":"device","site":"a","ttl":"-1h"}`, 422, "body.ttl"},
		{"POST", tokens, `{"kind":"device","site":"a","ttl":3600}`, 422, "body.ttl string"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":0}`, 422, "body.uses 1"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":10001}`, 422, "body.uses 10000"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":-1}`, 422, "body.uses"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":1.5}`, 422, "body.uses integer"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":1e2}`, 422, "uses"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":"3"}`, 422, "body.uses integer"},
		{"POST", tokens, `{"kind":"device","site":"a","uses":18446744073709551617}`, 422, "body.uses"},
		{"POST", tokens, `{"kind":"device","site":"a","tags":{"site":"b"}}`, 422, "body.tags.site reserved"},
		{"POST", tokens, `{"kind":"device","site":"a","tags":{"b!":"b"}}`, 422, "body.tags.b!"},
		{"POST", tokens, `{"kind":"device","site":"a","tags":["b"]}`, 422, "body.tags object"},
		{"POST", tokens, `{"kind":"gateway","site":"a","tags":{"b":"b"}}`, 422, "body.tags gateway"},
		{"POST", tokens, `{"kind":"device","site":"a","comment":"` + strings.Repeat("x", 257) + `"}`, 422, "body.comment 256"},
		{"POST", tokens, `{"kind":"device","site":"a","comment":"\u001b[2J"}`, 422, "body.comment print"},
		{"POST", tokens, `{"kind":"device","site":"a","KIND":"gateway"}`, 400, "KIND lower-case"},
		{"POST", tokens, `{"kind":"device","kind":"gateway","site":"a"}`, 400, "kind twice"},
		{"POST", tokens + "?kind=device", `{"kind":"device","site":"a"}`, 422, "query.kind"},
	})
}

// Requests that are bad in their headers or on their way.
func TestBadTransport(t *testing.T) {
	c := newCore(t)
	before := c.View().Index()
	const good = `{"kind":"device","site":"plant-7"}`
	for name, tc := range map[string]struct {
		change func(*http.Request)
		status int
		says   string
	}{
		"form":           {func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415, "content type"},
		"text":           {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415, "content type"},
		"problem":        {func(r *http.Request) { r.Header.Set("Content-Type", "application/problem+json") }, 415, "content type"},
		"other json":     {func(r *http.Request) { r.Header.Set("Content-Type", "application/merge-patch+json") }, 415, "content type"},
		"gzip":           {func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 415, "header.Content-Encoding"},
		"ends early":     {func(r *http.Request) { r.Body = io.NopCloser(failing{}) }, 400, "body"},
		"ends too early": {func(r *http.Request) { r.Body = io.NopCloser(io.MultiReader(strings.NewReader(good), failing{})) }, 400, "body"},
	} {
		r := request(http.MethodPost, "/v1/tokens", good)
		tc.change(r)
		if p := problem(t, c.do(r), tc.status); !strings.Contains(p.Detail, tc.says) {
			t.Errorf("%s: %q is not in %q", name, tc.says, p.Detail)
		}
	}
	if got := c.View().Index(); got != before {
		t.Errorf("the state's index went from %d to %d", before, got)
	}
	// What a client accepts does not change what it gets: there is one format.
	for _, accept := range []string{"text/html", "application/problem+json", "application/cbor;q=1", "\x7f", "*/*;q=0"} {
		r := request(http.MethodGet, "/v1/whoami", "")
		r.Header.Set("Accept", accept)
		w := c.do(r)
		if ct := w.Header().Get("Content-Type"); w.Code != http.StatusOK || ct != "application/json" {
			t.Errorf("Accept %q: %d %s", accept, w.Code, ct)
		}
	}
}

var errTorn = errors.New("connection reset")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errTorn }

// A body of exactly the limit is taken; how much is wrong with it does not make the answer grow.
func TestBodyLimits(t *testing.T) {
	c := newCore(t)
	pad := strings.Repeat(" ", maxBody-len(`{"kind":"device","site":"plant-7"}`))
	if w := c.do(request(http.MethodPost, "/v1/tokens", `{"kind":"device","site":"plant-7"}`+pad)); w.Code != http.StatusCreated {
		t.Errorf("a body of the limit: %d %s", w.Code, w.Body)
	}
	var b strings.Builder
	b.WriteString(`{"kind":"device"`)
	for i := 0; b.Len() < maxBody-100; i++ {
		fmt.Fprintf(&b, `,"n%d":[{}]`, i)
	}
	b.WriteString("}")
	p := problem(t, c.do(request(http.MethodPost, "/v1/tokens", b.String())), http.StatusUnprocessableEntity)
	if len(p.Errors) != maxDetails {
		t.Errorf("%d details, want %d", len(p.Errors), maxDetails)
	}
	if strings.Contains(p.Detail, "}") {
		t.Errorf("the problem repeats the request: %s", p.Detail)
	}
}
