package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Limits of the time to live of an operator's token, which may also have none.
const (
	minOperatorTTL = time.Minute
	maxOperatorTTL = 87600 * time.Hour
)

// operatorRecord is a record as the API writes it at the given time.
func operatorRecord(o *registry.Operator, now time.Time) v1.Operator {
	out := v1.Operator{
		ID: o.ID, Name: o.Name, Role: string(o.Role), Sites: append([]string{}, o.Sites...), State: "active", CreatedAt: at(o.CreatedMS),
		CreatedBy: o.By, ExpiresAt: atOrNull(o.ExpiresMS), LastUsedAt: atOrNull(o.UsedMS), LastUsedFrom: o.UsedFrom,
	}
	switch {
	case o.RevokedMS != 0:
		out.State = "revoked"
	case !o.Usable(now):
		out.State = "expired"
	}
	return out
}

type listOperatorsInput struct {
	Reading
	Paging
}

func (s *server) listOperators(ctx context.Context, c *call, in *listOperatorsInput) (*reply[v1.List[v1.Operator]], error) {
	return listing[registry.Operator, v1.Operator]{
		visit: c.view.Operators,
		name:  func(o *registry.Operator) string { return o.ID },
		show:  func(o *registry.Operator) v1.Operator { return operatorRecord(o, c.now) },
	}.page(ctx, in.Paging, listOf("operators"))
}

// OperatorPath is the part of a path that names an operator.
type OperatorPath struct {
	ID string `path:"id" maxLength:"64" doc:"the operator's id"`
}

// find is the operator of a path.
func (p OperatorPath) find(v registry.View) (*registry.Operator, error) {
	digits, ok := strings.CutPrefix(p.ID, "op-")
	if !ok || digits == "" || strings.ContainsFunc(digits, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) {
		return nil, invalid("path.id", "%.40q is not an operator's id: op- and hex digits", p.ID)
	}
	o, ok := v.OperatorByID(p.ID)
	if !ok {
		return nil, fmt.Errorf("operator %s: %w", p.ID, registry.ErrNotFound)
	}
	return o, nil
}

type getOperatorInput struct {
	Reading
	OperatorPath
}

func (s *server) getOperator(_ context.Context, c *call, in *getOperatorInput) (*reply[v1.Operator], error) {
	o, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	return answer(operatorRecord(o, c.now)), nil
}

type revokeOperatorInput struct{ OperatorPath }

func (s *server) revokeOperator(ctx context.Context, c *call, in *revokeOperatorInput) (*reply[v1.Operator], error) {
	o, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	o, err = propose[*registry.Operator](ctx, s, c, &command.RevokeOperator{ID: o.ID})
	if err != nil {
		return nil, err
	}
	return answer(operatorRecord(o, c.now)), nil
}

type createOperatorInput struct{ Body v1.CreateOperator }

type createOperatorReply struct {
	Location string `header:"Location" doc:"the operator's path"`
	Body     v1.NewOperator
}

func (s *server) createOperator(ctx context.Context, c *call, in *createOperatorInput) (*createOperatorReply, error) {
	ask, err := newOperator(&in.Body, c.now)
	if err != nil {
		return nil, err
	}
	id, bearer := s.newBearer(c)
	ask.ID, ask.Hash = id, sha256.Sum256([]byte(bearer))
	o, err := propose[*registry.Operator](ctx, s, c, &command.CreateOperator{Operator: *ask})
	switch {
	case errors.Is(err, registry.ErrExists) && c.once != nil:
		return nil, errForgotten()
	case err != nil:
		return nil, err
	case o.ID != ask.ID || o.Hash != ask.Hash:
		return nil, errLost("operator " + o.ID)
	}
	out := &createOperatorReply{Location: "/v1/operators/" + o.ID}
	out.Body = v1.NewOperator{Operator: operatorRecord(o, c.now), Token: bearer}
	return out, nil
}

// newOperator checks what is asked for. The roles and the lengths are in the schema.
func newOperator(b *v1.CreateOperator, now time.Time) (*command.Operator, error) {
	if strings.TrimSpace(b.Name) != b.Name || !printable(b.Name) {
		return nil, invalid("body.name", "has characters that do not print, or white space around it")
	}
	for i, name := range b.Sites {
		if err := ident.CheckName("site", name); err != nil {
			return nil, invalid(fmt.Sprintf("body.sites[%d]", i), "%v", err)
		}
	}
	o := &command.Operator{Name: b.Name, Role: b.Role, Sites: slices.Compact(slices.Sorted(slices.Values(b.Sites)))}
	if b.TTL != "" {
		ttl, err := duration("body.ttl", b.TTL, minOperatorTTL, maxOperatorTTL)
		if err != nil {
			return nil, err
		}
		o.ExpiresMS = now.Add(ttl).UnixMilli()
	}
	return o, nil
}

// printable tells whether a text can be shown as it is.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
