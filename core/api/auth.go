package api

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// isPublic lists the paths that need no token. They tell nothing of the fleet.
func isPublic(path string) bool {
	switch path {
	case "/healthz", "/readyz", "/openapi.json":
		return true
	}
	return false
}

// roleAdmin is the one role that this build knows.
const roleAdmin = "admin"

// authorize is the one place that decides whether a request is served. What it does not expressly permit is refused, routes
// that do not exist included. It returns the operator that asks, or nil where none is needed.
func authorize(v registry.View, r *http.Request) (*command.Operator, error) {
	if isPublic(r.URL.Path) {
		return nil, nil
	}
	given := r.Header.Values("Authorization")
	if len(given) != 1 {
		return nil, unauthorized("send exactly one Authorization header: Bearer, a space, your token")
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, unauthorized("send Bearer, a space, your token")
	}
	who, ok := v.Operator(sha256.Sum256([]byte(token)))
	if !ok {
		return nil, unauthorized("the token is not known here")
	}
	if who.Role != roleAdmin {
		return nil, newProblem(http.StatusForbidden, v1.ProblemForbidden, "header.Authorization", "this build grants nothing to the role of that token")
	}
	return who, nil
}

func unauthorized(why string) error {
	return huma.ErrorWithHeaders(
		newProblem(http.StatusUnauthorized, v1.ProblemUnauthorized, "header.Authorization", why),
		http.Header{"Www-Authenticate": {`Bearer realm="holdfast"`}})
}

type operatorKey struct{}

// operator is who asks. Only operations that are not public may call it.
func operator(ctx context.Context) *command.Operator {
	who, _ := ctx.Value(operatorKey{}).(*command.Operator)
	return who
}
