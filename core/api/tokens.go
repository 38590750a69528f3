package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Limits of a token's time to live. A token that outlives a month is a standing invitation.
const (
	minTTL = time.Minute
	maxTTL = 720 * time.Hour
)

func (s *server) tokenRoutes() {
	add(s, op(http.MethodGet, "/v1/tokens", "list-tokens", "List enrollment tokens in order of id"), s.listTokens)
	create := op(http.MethodPost, "/v1/tokens", "create-token", "Make an enrollment token")
	create.DefaultStatus = http.StatusCreated
	add(s, create, s.createToken)
	add(s, missable(op(http.MethodGet, "/v1/tokens/{id}", "get-token", "One enrollment token")), s.getToken)
	add(s, missable(op(http.MethodDelete, "/v1/tokens/{id}", "revoke-token", "Revoke an enrollment token")), s.revokeToken)
}

type listTokensInput struct {
	Reading
	Paging
}

func (s *server) listTokens(ctx context.Context, in *listTokensInput) (*reply[v1.List[v1.Token]], error) {
	v, err := s.view(ctx, in.Reading)
	if err != nil {
		return nil, err
	}
	now := s.Wall()
	return namedPage(ctx, in.Paging, listOf("tokens"), v.Tokens,
		func(t *registry.Token) string { return t.ID.String() },
		func(t *registry.Token) v1.Token { return token(t, now) })
}

// TokenPath is the part of a path that names a token.
type TokenPath struct {
	ID string `path:"id" maxLength:"64" doc:"the token's public id"`
}

func (p TokenPath) token() (seal.TokenID, error) {
	id, err := seal.ParseTokenID(p.ID)
	if err != nil {
		return id, invalid("path.id", "%v", err)
	}
	return id, nil
}

type getTokenInput struct {
	Reading
	TokenPath
}

func (s *server) getToken(ctx context.Context, in *getTokenInput) (*reply[v1.Token], error) {
	t, err := s.findToken(ctx, in.Reading, in.TokenPath)
	if err != nil {
		return nil, err
	}
	return answer(token(t, s.Wall())), nil
}

// findToken reads the token of a path.
func (s *server) findToken(ctx context.Context, in Reading, p TokenPath) (*registry.Token, error) {
	id, err := p.token()
	if err != nil {
		return nil, err
	}
	v, err := s.view(ctx, in)
	if err != nil {
		return nil, err
	}
	t, ok := v.Token(id)
	if !ok {
		return nil, fmt.Errorf("token %v: %w", id, registry.ErrNotFound)
	}
	return t, nil
}

type revokeTokenInput struct{ TokenPath }

func (s *server) revokeToken(ctx context.Context, in *revokeTokenInput) (*reply[v1.Token], error) {
	t, err := s.findToken(ctx, Reading{}, in.TokenPath)
	if err != nil {
		return nil, err
	}
	t, err = propose[*registry.Token](ctx, s.Registry, &command.RevokeToken{By: operator(ctx).Name, ID: t.ID})
	if err != nil {
		return nil, err
	}
	return answer(token(t, s.Wall())), nil
}

type createTokenInput struct{ Body v1.CreateToken }

type createTokenReply struct {
	Location string `header:"Location" doc:"the token's path"`
	Body     v1.NewToken
}

func (s *server) createToken(ctx context.Context, in *createTokenInput) (*createTokenReply, error) {
	c, err := newToken(&in.Body)
	if err != nil {
		return nil, err
	}
	secret := seal.NewToken(s.Pin)
	c.By, c.ID, c.Public = operator(ctx).Name, secret.ID, secret.Public()
	t, err := propose[*registry.Token](ctx, s.Registry, c)
	if err != nil {
		return nil, err
	}
	out := &createTokenReply{Location: "/v1/tokens/" + t.ID.String()}
	out.Body = v1.NewToken{ID: t.ID.String(), Token: secret.Reveal(), Record: token(t, s.Wall())}
	return out, nil
}

// newToken checks what is asked for. The enums, the bounds of uses and the defaults are in the schema.
func newToken(b *v1.CreateToken) (*command.CreateToken, error) {
	c := &command.CreateToken{Kind: seal.Kind(b.Kind), Site: b.Site, Tags: b.Tags, Uses: b.Uses, Comment: b.Comment}
	if c.Kind == seal.KindCore {
		return nil, invalid("body.kind", "core is not taken: a second core node cannot join yet; make device and gateway tokens")
	}
	if b.Site == "" {
		return nil, invalid("body.site", "is missing: a %s token enrolls into one site", b.Kind)
	}
	if err := ident.CheckName("site", b.Site); err != nil {
		return nil, invalid("body.site", "%v", err)
	}
	ttl, err := duration("body.ttl", b.TTL, minTTL, maxTTL)
	if err != nil {
		return nil, err
	}
	c.TTLMS = ttl.Milliseconds()
	if len(b.Tags) > 0 && c.Kind != seal.KindDevice {
		return nil, invalid("body.tags", "are preset on devices: a %s token has none", b.Kind)
	}
	if err := checkTags("body.tags", b.Tags); err != nil {
		return nil, err
	}
	if strings.ContainsFunc(b.Comment, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, invalid("body.comment", "has characters that do not print")
	}
	return c, nil
}
