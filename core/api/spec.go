package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

const specPath = "/openapi.json"

var objectSchema = &huma.Schema{Type: huma.TypeObject}

type specReply struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	Body        []byte
}

func (s *server) showSpec(context.Context, *call, *struct{}) (*specReply, error) {
	return &specReply{ContentType: "application/json", Body: s.spec}, nil
}

// model puts a type that only a stream carries into the document.
func model[T any](s *server, name string) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, name)
}

// document writes the OpenAPI document, once, when every route is in it.
func (s *server) document() {
	doc := s.api.OpenAPI()
	openReplies(doc)
	for _, rt := range s.table {
		item := doc.Paths[rt.Path]
		for method, o := range operations(item) {
			if method == rt.Method {
				documentHeaders(rt, o)
			}
		}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		s.Log.Error("the OpenAPI document does not encode", "err", err)
		b = []byte("{}")
	}
	s.spec = b
}

// operations are those of a path, by method.
func operations(item *huma.PathItem) map[string]*huma.Operation {
	out := make(map[string]*huma.Operation)
	for method, o := range map[string]*huma.Operation{
		http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
	} {
		if o != nil {
			out[method] = o
		}
	}
	return out
}

// documentHeaders adds the headers that the gate and the calls set to the answers of a route.
func documentHeaders(rt *route, o *huma.Operation) {
	for status, r := range o.Responses {
		if r.Headers == nil {
			r.Headers = make(map[string]*huma.Param)
		}
		add := func(name, doc string) {
			r.Headers[name] = &huma.Param{Description: doc, Schema: &huma.Schema{Type: huma.TypeString}}
		}
		add(requestIDHeader, "id of the request, as the audit trail has it")
		code, err := strconv.Atoi(status)
		switch {
		case err != nil:
		case code == http.StatusUnauthorized:
			add("WWW-Authenticate", "Bearer")
		case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
			add("Retry-After", "seconds")
		case code < http.StatusMultipleChoices:
			if rt.tagged {
				add("ETag", "of the record; absent: nobody has changed it yet")
			}
			if rt.changes() {
				add(replayedHeader, "true: the reply to a request with an idempotency key tells of what was done before that request")
			}
		}
	}
}

// humaConfig is huma without what it brings unasked: a documentation page that loads from elsewhere, routes for schemas, and
// links to them in every answer.
func humaConfig(version string) huma.Config {
	cfg := huma.DefaultConfig("Holdfast", version)
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", ""
	cfg.CreateHooks = nil
	cfg.Formats = map[string]huma.Format{"application/json": jsonFormat, "application/problem+json": problemFormat}
	cfg.RejectUnknownQueryParameters = true
	cfg.Transformers = []huma.Transformer{tidy}
	cfg.Info.Description = "Operators' API of a Holdfast core. Errors are RFC 9457 problems. In answers, fields are only ever added."
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "an operator's token"},
	}
	cfg.Security = []map[string][]string{{"bearer": {}}}
	return cfg
}

// openReplies lets answers have fields that the document does not name, because later versions add some. Requests stay closed.
func openReplies(doc *huma.OpenAPI) {
	requests := make(map[string]bool)
	for _, item := range doc.Paths {
		for _, o := range operations(item) {
			if o.RequestBody == nil {
				continue
			}
			for _, m := range o.RequestBody.Content {
				requests[m.Schema.Ref] = true
			}
		}
	}
	for name, schema := range doc.Components.Schemas.Map() {
		if closed, ok := schema.AdditionalProperties.(bool); ok && !closed && !requests["#/components/schemas/"+name] {
			schema.AdditionalProperties = nil
		}
	}
}
