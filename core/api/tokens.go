package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Limits of a token's time to live. A token that outlives a month is a standing invitation.
const (
	minTTL     = time.Minute
	maxTTL     = 720 * time.Hour
	defaultTTL = time.Hour
	coreTTL    = 15 * time.Minute // the most, and the default, for a core node
)

type listTokensInput struct {
	Reading
	Paging
}

func (s *server) listTokens(ctx context.Context, c *call, in *listTokensInput) (*reply[v1.List[v1.Token]], error) {
	now := s.Wall()
	return listing[registry.Token, v1.Token]{
		visit: c.view.Tokens,
		keep:  func(t *registry.Token) bool { return c.maySee(seeToken(t)) },
		name:  func(t *registry.Token) string { return t.ID.String() },
		show:  func(t *registry.Token) v1.Token { return token(t, now) },
	}.page(ctx, in.Paging, listOf("tokens"))
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

func (s *server) getToken(_ context.Context, c *call, in *getTokenInput) (*reply[v1.Token], error) {
	t, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	return answer(token(t, s.Wall())), nil
}

// find is the token of a path.
func (p TokenPath) find(v registry.View) (*registry.Token, error) {
	id, err := p.token()
	if err != nil {
		return nil, err
	}
	t, ok := v.Token(id)
	if !ok {
		return nil, missingToken(id)
	}
	return t, nil
}

func missingToken(id seal.TokenID) error { return fmt.Errorf("token %v: %w", id, registry.ErrNotFound) }

type revokeTokenInput struct{ TokenPath }

func (s *server) revokeToken(ctx context.Context, c *call, in *revokeTokenInput) (*reply[v1.Token], error) {
	t, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	t, err = propose[*registry.Token](ctx, s, c, &command.RevokeToken{ID: t.ID})
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

func (s *server) createToken(ctx context.Context, c *call, in *createTokenInput) (*createTokenReply, error) {
	ask, err := newTokenCommand(&in.Body)
	if err != nil {
		return nil, err
	}
	secret := s.newSecret(c)
	ask.ID, ask.Public = secret.ID, secret.Public()
	t, err := propose[*registry.Token](ctx, s, c, ask)
	switch {
	case errors.Is(err, registry.ErrExists) && c.once != nil:
		return nil, errForgotten()
	case err != nil:
		return nil, err
	case t.ID != ask.ID || !bytes.Equal(t.Public, ask.Public):
		return nil, errLost("token " + t.ID.String())
	}
	out := &createTokenReply{Location: "/v1/tokens/" + t.ID.String()}
	out.Body = v1.NewToken{ID: t.ID.String(), Token: secret.Reveal(), Record: token(t, s.Wall())}
	return out, nil
}

// newTokenCommand checks what is asked for. The enums and the bounds of uses are in the schema, and the defaults of tokens for
// devices and gateways.
func newTokenCommand(b *v1.CreateToken) (*command.CreateToken, error) {
	c := &command.CreateToken{Kind: seal.Kind(b.Kind), Site: b.Site, Tags: b.Tags, Uses: b.Uses, Comment: b.Comment}
	check, most := checkSiteToken, maxTTL
	if c.Kind == seal.KindCore {
		check, most = checkCoreToken, coreTTL
	}
	if err := check(b); err != nil {
		return nil, err
	}
	text := b.TTL
	if text == "" {
		text = min(most, defaultTTL).String()
	}
	ttl, err := duration("body.ttl", text, minTTL, most)
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
	if !printable(b.Comment) {
		return nil, invalid("body.comment", "has characters that do not print")
	}
	return c, nil
}

// checkSiteToken holds a token for devices or gateways against its rules.
func checkSiteToken(b *v1.CreateToken) error {
	if b.Site == "" {
		return invalid("body.site", "is missing: a %s token enrolls into one site", b.Kind)
	}
	if err := ident.CheckName("site", b.Site); err != nil {
		return invalid("body.site", "%v", err)
	}
	return nil
}

// checkCoreToken holds a token for a core node against its rules: whoever has it gets the keys of the fleet.
func checkCoreToken(b *v1.CreateToken) error {
	if b.Site != "" {
		return invalid("body.site", "is given: a core node belongs to no site")
	}
	if b.Uses != 1 {
		return invalid("body.uses", "is %d: a core token is for one node", b.Uses)
	}
	return nil
}
