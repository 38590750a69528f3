package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/core/api/v1"
)

// A document is what the tests read of the OpenAPI document.
type document struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Title   string `json:"title"`
		Version string `json:"version"`
	} `json:"info"`
	Paths    map[string]map[string]operation `json:"paths"`
	Security []map[string][]string           `json:"security"`

	Components struct {
		Schemas         map[string]json.RawMessage   `json:"schemas"`
		SecuritySchemes map[string]map[string]string `json:"securitySchemes"`
	} `json:"components"`
}

type operation struct {
	OperationID string                 `json:"operationId"`
	Summary     string                 `json:"summary"`
	Security    *[]map[string][]string `json:"security"`
	Parameters  []struct {
		Name     string `json:"name"`
		In       string `json:"in"`
		Required bool   `json:"required"`
	} `json:"parameters"`
	RequestBody *struct {
		Required bool `json:"required"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string                     `json:"description"`
		Content     map[string]json.RawMessage `json:"content"`
		Headers     map[string]json.RawMessage `json:"headers"`
	} `json:"responses"`
}

func openapi(t *testing.T, c *core) (document, []byte) {
	t.Helper()
	w := c.do(httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("got %d %v", w.Code, w.Header())
	}
	var d document
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	return d, w.Body.Bytes()
}

// routes are all routes of the document, as "METHOD path".
func (d *document) routes() []string {
	var out []string
	for path, ops := range d.Paths {
		for method := range ops {
			out = append(out, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(out)
	return out
}

func TestOpenAPIListsEveryRoute(t *testing.T) {
	d, _ := openapi(t, newCore(t))
	want := []string{
		"DELETE /v1/artifacts/{id}", "DELETE /v1/cluster/nodes/{name}", "DELETE /v1/devices/{id}/slots/{slot}", "DELETE /v1/operators/{id}",
		"DELETE /v1/tokens/{id}", "GET /healthz", "GET /metrics", "GET /openapi.json", "GET /readyz", "GET /v1/artifacts",
		"GET /v1/artifacts/{id}", "GET /v1/audit", "GET /v1/audit/export", "GET /v1/audit/head", "GET /v1/cluster", "GET /v1/devices",
		"GET /v1/devices/{id}", "GET /v1/devices/{id}/explain", "GET /v1/devices/{id}/history", "GET /v1/devices/{id}/presence",
		"GET /v1/events", "GET /v1/gateways", "GET /v1/gateways/{site}/{name}", "GET /v1/operators", "GET /v1/operators/{id}",
		"GET /v1/publishers", "GET /v1/sites", "GET /v1/sites/{name}", "GET /v1/tokens", "GET /v1/tokens/{id}", "GET /v1/whoami",
		"PATCH /v1/devices/{id}", "PATCH /v1/devices/{id}/tags", "POST /v1/artifacts", "POST /v1/cluster/snapshot", "POST /v1/cluster/transfer-leadership",
		"POST /v1/content", "POST /v1/content/missing", "POST /v1/devices/{id}/release", "POST /v1/devices/{id}/slots/{slot}/retry",
		"POST /v1/gateways/{site}/{name}/revoke", "POST /v1/operators", "POST /v1/publishers", "POST /v1/tokens",
		"PUT /v1/devices/{id}/slots/{slot}", "PUT /v1/sites/{name}",
	}
	if got := d.routes(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// The rules of OpenAPI 3.1 that a document like this can break.
func TestOpenAPIIsValid(t *testing.T) {
	d, raw := openapi(t, newCore(t))
	if !strings.HasPrefix(d.OpenAPI, "3.1.") || d.Info.Title == "" || d.Info.Version != "1.2.3" || d.Components.SecuritySchemes["bearer"]["scheme"] != "bearer" {
		t.Errorf("head: %+v %+v", d.Info, d.Components.SecuritySchemes)
	}
	ids := make(map[string]bool)
	param := regexp.MustCompile(`\{([^}]*)\}`)
	for path, ops := range d.Paths {
		for method, o := range ops {
			name := method + " " + path
			if o.OperationID == "" || ids[o.OperationID] || o.Summary == "" {
				t.Errorf("%s: operation id %q, summary %q", name, o.OperationID, o.Summary)
			}
			ids[o.OperationID] = true
			var inPath []string
			for _, p := range o.Parameters {
				if p.In == "path" && p.Required {
					inPath = append(inPath, p.Name)
				}
			}
			var want []string
			for _, m := range param.FindAllStringSubmatch(path, -1) {
				want = append(want, m[1])
			}
			if !slices.Equal(inPath, want) {
				t.Errorf("%s: documents path parameters %q", name, inPath)
			}
			acts := strings.HasSuffix(path, "/release") || strings.HasSuffix(path, "/retry") || strings.HasSuffix(path, "/snapshot") // says all in its name
			may := strings.HasSuffix(path, "/transfer-leadership")
			if takes := method != "get" && method != "delete" && !acts; (o.RequestBody != nil) != takes || takes && o.RequestBody.Required == may {
				t.Errorf("%s: request body %+v", name, o.RequestBody)
			}
			checkResponses(t, name, &o)
		}
	}
	for _, m := range regexp.MustCompile(`"\$ref":"([^"]*)"`).FindAllStringSubmatch(string(raw), -1) {
		schema, ok := strings.CutPrefix(m[1], "#/components/schemas/")
		if _, defined := d.Components.Schemas[schema]; !ok || !defined {
			t.Errorf("%s leads nowhere", m[1])
		}
	}
	if strings.Contains(string(raw), "$schema") || strings.Contains(string(raw), "unpkg") {
		t.Error("the document leads elsewhere")
	}
}

func checkResponses(t *testing.T, name string, o *operation) {
	t.Helper()
	good := 0
	for status, r := range o.Responses {
		if status[0] == '2' {
			good++
			continue
		}
		if _, ok := r.Content["application/problem+json"]; !ok || len(r.Content) != 1 {
			t.Errorf("%s: %s is no problem", name, status)
		}
	}
	if good != 1 || len(o.Responses) < 2 {
		t.Errorf("%s: responses %v", name, o.Responses)
	}
}

// The headers that decide something are in the document, where they are and nowhere else.
func TestOpenAPIHeaders(t *testing.T) {
	c := newCore(t)
	d, _ := openapi(t, c)
	for path, ops := range d.Paths {
		for method, o := range ops {
			name := strings.ToUpper(method) + " " + path
			changes, tagged := method != "get", c.server.table[name].tagged
			takes := make(map[string]bool)
			for _, p := range o.Parameters {
				takes[p.Name] = p.In == "header"
			}
			if takes["Idempotency-Key"] != changes || takes["If-Match"] != (changes && tagged) {
				t.Errorf("%s: takes %v", name, takes)
			}
			for status, r := range o.Responses {
				has := func(h string) bool { _, ok := r.Headers[h]; return ok }
				good := status[0] == '2'
				if has("ETag") != (good && tagged) || has("Idempotency-Replayed") != (good && changes) || has("Retry-After") != (status == "429" || status == "503") ||
					has("WWW-Authenticate") != (status == "401") || !has("X-Request-Id") {
					t.Errorf("%s: %s has the headers %v", name, status, r.Headers)
				}
			}
			public := o.Security != nil && len(*o.Security) == 0
			for status, want := range map[string]bool{"401": !public, "403": !public, "429": !public, "409": changes, "412": changes && tagged, "504": changes} {
				if _, ok := o.Responses[status]; ok != want {
					t.Errorf("%s: answers %s: %v", name, status, ok)
				}
			}
		}
	}
}

// Answers may get fields later; requests with fields that nobody knows are refused.
func TestOnlyRequestsAreClosed(t *testing.T) {
	d, _ := openapi(t, newCore(t))
	for name, raw := range d.Components.Schemas {
		closed := strings.Contains(string(raw), `"additionalProperties":false`)
		if want := name == "CreateToken" || name == "CreateOperator" || name == "TransferLeadership" || name == "RevokeGateway" || name == "AskContent" || name == "AddArtifact" || strings.HasPrefix(name, "Set"); closed != want {
			t.Errorf("schema %s: closed %v, want %v", name, closed, want)
		}
		if strings.Contains(string(raw), `"type":["array","null"]`) && name != "ErrorModel" {
			t.Errorf("schema %s has a list that may be null", name)
		}
	}
}

// concrete fills a route's parameters.
func concrete(path string) string {
	return strings.NewReplacer("/operators/{id}", "/operators/op-1", "/tokens/{id}", "/tokens/0123456789abcdef", "/artifacts/{id}", "/artifacts/app@1.1", "{slot}", "app", "{id}", someDevice, "{site}", "plant-7", "{name}", "plant-7").Replace(path)
}

// Every route of the document, so that a new one cannot be forgotten, is closed to everybody without a known token, but for
// those that say so, which are exactly three.
func TestEveryRouteNeedsAToken(t *testing.T) {
	c := newCore(t)
	c.token("device", "plant-7")
	d, _ := openapi(t, c)
	before := c.View().Index()
	bad := map[string][]string{
		"none": nil, "empty": {""}, "wrong": {"Bearer hfo1_wrong"}, "basic": {"Basic " + adminToken}, "bare": {adminToken}, "two spaces": {"Bearer  " + adminToken},
		"trailing": {"Bearer " + adminToken + " "}, "two": {"Bearer " + adminToken, "Bearer " + adminToken}, "no token": {"Bearer "},
		"scheme only": {"Bearer"}, "long": {"Bearer " + strings.Repeat("a", 100_000)}, "case": {"Bearer " + strings.ToUpper(adminToken)},
	}
	var open []string
	for _, route := range append(d.routes(), "GET /v1/nothing", "GET /", "GET /healthz/", "GET //healthz", "BREW /v1/devices") {
		method, path, _ := strings.Cut(route, " ")
		o := d.Paths[path][strings.ToLower(method)]
		if o.Security != nil && len(*o.Security) == 0 {
			open = append(open, path)
			if w := c.do(httptest.NewRequest(method, path, nil)); w.Code != http.StatusOK {
				t.Errorf("%s: %d", route, w.Code)
			}
			continue
		}
		for name, headers := range bad {
			r := httptest.NewRequest(method, "/", strings.NewReader(`{"kind":"device","site":"plant-7"}`))
			r.URL.Path = concrete(path)
			r.Header["Authorization"] = headers
			w := c.do(r)
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %s: %d", route, name, w.Code)
				continue
			}
			if p := problem(t, w, http.StatusUnauthorized); p.Type != v1.ProblemUnauthorized || strings.Contains(p.Detail, adminToken) {
				t.Errorf("%s with %s: %+v", route, name, p)
			}
		}
	}
	if slices.Sort(open); !slices.Equal(open, []string{"/healthz", "/openapi.json", "/readyz"}) {
		t.Errorf("open to everybody: %q", open)
	}
	if got := c.View().Index(); got != before || c.barrier > defaultLimits.lookupsBurst {
		t.Errorf("the state's index went from %d to %d, and %d reads were begun", before, got, c.barrier)
	}
}

// The scheme's name has no case.
func TestBearerInOtherCase(t *testing.T) {
	c := newCore(t)
	r := httptest.NewRequest(http.MethodGet, "/v1/whoami", nil)
	r.Header.Set("Authorization", "bearer "+adminToken)
	if w := c.do(r); w.Code != http.StatusOK {
		t.Errorf("got %d", w.Code)
	}
}

// A role that this build does not know is granted nothing.
func TestOtherRolesAreRefused(t *testing.T) {
	c := newCoreWith(t, "root", wide())
	d, _ := openapi(t, c)
	for _, route := range d.routes() {
		method, path, _ := strings.Cut(route, " ")
		if c.server.table[route].access.public {
			continue
		}
		if p := problem(t, c.do(request(method, concrete(path), "")), http.StatusForbidden); p.Type != v1.ProblemForbidden {
			t.Errorf("%s: %+v", route, p)
		}
	}
}

// What the types for clients say of a problem is all that there is in one.
func TestProblemType(t *testing.T) {
	c := newCore(t)
	p := problem(t, c.do(request(http.MethodGet, "/v1/devices?limit=0&site=X", "")), http.StatusUnprocessableEntity)
	want := v1.Problem{
		Type: v1.ProblemInvalid, Title: "Unprocessable Entity", Status: 422, Detail: "query.limit: expected number >= 1",
		Errors: []v1.ProblemDetail{{Location: "query.limit", Message: "expected number >= 1"}},
	}
	if p.Detail != want.Detail || len(p.Errors) != 1 || p.Errors[0] != want.Errors[0] || p.Type != want.Type || p.Title != want.Title {
		t.Errorf("got %+v, want %+v", p, want)
	}
}
