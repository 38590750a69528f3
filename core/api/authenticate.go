package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// The actions and reasons under which failed authentications are counted.
const (
	actionAuthenticate = "authenticate"
	reasonNoToken      = "no token"
	reasonUnknown      = "unknown token"
	reasonRevoked      = "revoked"
	reasonExpired      = "expired"
	reasonLimited      = "limited"
)

// authenticate is who sends a request. Whoever fails too often has to wait, with a good token too: otherwise guessing would
// go on. Who asks without one, or with one that is unknown or has ended, gets one and the same answer.
func (g *gate) authenticate(r *http.Request, t *ticket) (*registry.Operator, error) {
	source := sourceKey(t.source)
	if !g.failed.Allowed(source) {
		g.refuse(actionAuthenticate, "", t.source, reasonLimited)
		return nil, tooMany("header.Authorization", "too many tokens from this address were not known", int(1/g.failures))
	}
	hash, err := bearerOf(r)
	if err != nil {
		return nil, g.stranger(t, source, nil, reasonNoToken, err)
	}
	v := g.Registry.View()
	who, ok := v.Operator(hash)
	if !ok && g.mayLookUp(source) {
		ctx, cancel := context.WithTimeout(r.Context(), authTime)
		defer cancel()
		if err := g.Registry.Barrier(ctx); err != nil {
			g.failed.Failed(source)
			return nil, fmt.Errorf("find out about the token: %w", err)
		}
		v = g.Registry.View()
		who, ok = v.Operator(hash)
	}
	switch now := g.now(v); {
	case !ok:
		return nil, g.stranger(t, source, nil, reasonUnknown, registry.ErrUnauthenticated)
	case who.RevokedMS != 0:
		return nil, g.stranger(t, source, who, reasonRevoked, registry.ErrUnauthenticated)
	case !who.Usable(now):
		return nil, g.stranger(t, source, who, reasonExpired, registry.ErrUnauthenticated)
	}
	return who, nil
}

// stranger counts a failed authentication and returns its error.
func (g *gate) stranger(t *ticket, source string, who *registry.Operator, reason string, err error) error {
	actor := ""
	if who != nil {
		actor = "operator:" + who.ID
	}
	g.refuse(actionAuthenticate, actor, t.source, reason)
	g.failed.Failed(source)
	return err
}

// bearerOf is the hash of the token that a request carries.
func bearerOf(r *http.Request) ([32]byte, error) {
	given := r.Header.Values("Authorization")
	if len(given) != 1 {
		return [32]byte{}, unauthorized("send exactly one Authorization header: Bearer, a space, your token")
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return [32]byte{}, unauthorized("send Bearer, a space, your token")
	}
	return sha256.Sum256([]byte(token)), nil
}

func unauthorized(why string) error {
	return huma.ErrorWithHeaders(
		newProblem(http.StatusUnauthorized, v1.ProblemUnauthorized, "header.Authorization", why),
		http.Header{"Www-Authenticate": {`Bearer realm="holdfast"`}})
}

// sourceKey is what failures are limited by: an IPv4 address, or the /64 of an IPv6 address, which one host has to itself.
func sourceKey(source string) string {
	a, err := netip.ParseAddr(source)
	if err != nil {
		return source
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return source
	}
	return p.String()
}
