package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
)

func (s *server) nodeRoutes() {
	add(s, op(http.MethodGet, "/v1/whoami", "whoami", "Whom the token speaks for"), s.whoami)
	add(s, op(http.MethodGet, "/v1/cluster", "get-cluster", "The core as this node knows it"), s.getCluster)
	add(s, public(op(http.MethodGet, "/healthz", "healthz", "Whether the process runs")), s.healthz)
	add(s, public(op(http.MethodGet, "/readyz", "readyz", "Whether this node can serve")), s.readyz)
}

func (s *server) whoami(ctx context.Context, _ *struct{}) (*reply[v1.Whoami], error) {
	who := operator(ctx)
	out := v1.Whoami{Operator: who.Name, Role: who.Role}
	if f := s.Registry.View().Fleet(); f != nil {
		out.Fleet = f.Name
	}
	return answer(out), nil
}

func (s *server) getCluster(context.Context, *struct{}) (*reply[v1.Cluster], error) {
	out := s.Cluster()
	if out.Nodes == nil {
		out.Nodes = []v1.Node{}
	}
	return answer(out), nil
}

func (s *server) healthz(context.Context, *struct{}) (*reply[v1.Health], error) {
	return answer(v1.Health{Status: "ok"}), nil
}

func (s *server) readyz(context.Context, *struct{}) (*reply[v1.Health], error) {
	if err := s.Ready(); err != nil {
		return nil, later(v1.ProblemUnavailable, "not ready: "+err.Error())
	}
	return answer(v1.Health{Status: "ok"}), nil
}

type specReply struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	Body        []byte
}

// specRoute comes last: the document is written once, when every operation is in it.
func (s *server) specRoute() {
	o := public(op(http.MethodGet, "/openapi.json", "openapi", "This document"))
	o.Responses = map[string]*huma.Response{"200": {
		Description: http.StatusText(http.StatusOK),
		Content:     map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}},
	}}
	add(s, o, func(context.Context, *struct{}) (*specReply, error) {
		return &specReply{ContentType: "application/json", Body: s.spec}, nil
	})
	doc := s.api.OpenAPI()
	openReplies(doc)
	b, err := json.Marshal(doc)
	if err != nil {
		s.Log.Error("the OpenAPI document does not encode", "err", err)
		b = []byte("{}")
	}
	s.spec = b
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
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if o == nil || o.RequestBody == nil {
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
