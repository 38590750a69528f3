package api

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// An access says what it takes to use a route. The zero access permits nobody.
type access struct {
	public bool            // needs no token
	least  registry.Action // whoever may do this nowhere is refused before anything of the request is looked at
	on     scope
}

// A scope finds out what a request is about.
type scope struct {
	name string // as docs/api.md calls it
	of   func(v registry.View, least registry.Action, in any) (subject, error)
}

// A subject is what a request is about, on one view.
type subject struct {
	do  demand
	see demand // with hidden: what it takes to know of it
	// hidden is the answer to those who may not know of it, which is the one that they would get if it did not exist. Nil:
	// nothing is given away.
	hidden error
}

// A demand is what Permit is asked.
type demand struct {
	action registry.Action
	scope  registry.Scope
}

func (d demand) permit(who *registry.Operator, now time.Time) error {
	return registry.Permit(who, d.action, d.scope, now)
}

func public() access             { return access{public: true, on: scope{name: "everybody"}} }
func see(on scope) access        { return access{least: registry.ActSee, on: on} }
func operate(on scope) access    { return access{least: registry.ActOperate, on: on} }
func administer(on scope) access { return access{least: registry.ActAdminister, on: on} }

// always is a scope that does not depend on the request.
func always(name string, on registry.Scope) scope {
	return scope{name, func(_ registry.View, least registry.Action, _ any) (subject, error) {
		return subject{do: demand{least, on}}, nil
	}}
}

// The scopes.
var (
	theFleet   = always("the fleet", registry.ScopeFleet())
	whatISee   = always("what the operator sees", registry.ScopeOwn())
	theDevice  = scope{"the device's site", aboutDevice}
	theSite    = scope{"the site", aboutSite}
	theGateway = scope{"the gateway's site", aboutGateway}
	theToken   = scope{"what the token is for", aboutToken}
	newToken   = scope{"what the token is for", aboutNewToken}
)

// errScope says that a route was declared with a scope that does not fit its requests. Nobody is let in.
var errScope = errors.New("the route's scope does not fit its requests")

func aboutDevice(v registry.View, least registry.Action, in any) (subject, error) {
	path, ok := in.(interface {
		device() (ident.DeviceID, error)
	})
	if !ok {
		return subject{}, fmt.Errorf("%T: %w", in, errScope)
	}
	id, err := path.device()
	if err != nil {
		return subject{}, err
	}
	missing := missingDevice(id)
	d, ok := v.Device(id)
	if !ok {
		return subject{}, missing
	}
	on := registry.ScopeSite(d.Site)
	return subject{do: demand{least, on}, see: demand{registry.ActSee, on}, hidden: missing}, nil
}

func aboutSite(_ registry.View, least registry.Action, in any) (subject, error) {
	path, ok := in.(interface{ site() (string, error) })
	if !ok {
		return subject{}, fmt.Errorf("%T: %w", in, errScope)
	}
	name, err := path.site()
	if err != nil {
		return subject{}, err
	}
	on := registry.ScopeSite(name)
	return subject{do: demand{least, on}, see: demand{registry.ActSee, on}, hidden: missingSite(name)}, nil
}

func aboutGateway(v registry.View, least registry.Action, in any) (subject, error) {
	path, ok := in.(interface{ gateway() (string, error) })
	if !ok {
		return subject{}, fmt.Errorf("%T: %w", in, errScope)
	}
	id, err := path.gateway()
	if err != nil {
		return subject{}, err
	}
	missing := missingGateway(id)
	g, ok := v.Gateway(id)
	if !ok {
		return subject{}, missing
	}
	on := registry.ScopeSite(g.Site)
	return subject{do: demand{least, on}, see: demand{registry.ActSee, on}, hidden: missing}, nil
}

func aboutToken(v registry.View, least registry.Action, in any) (subject, error) {
	path, ok := in.(interface{ token() (seal.TokenID, error) })
	if !ok {
		return subject{}, fmt.Errorf("%T: %w", in, errScope)
	}
	id, err := path.token()
	if err != nil {
		return subject{}, err
	}
	missing := missingToken(id)
	t, ok := v.Token(id)
	if !ok {
		return subject{}, missing
	}
	sub := subject{see: seeToken(t), hidden: missing}
	sub.do = sub.see
	if least != registry.ActSee {
		sub.do.action, sub.do.scope = registry.TokenAction(t.Kind, t.Site)
	}
	return sub, nil
}

// seeToken is what it takes to know of a token: those of core nodes belong to no site, and are the administrators'.
func seeToken(t *registry.Token) demand {
	if t.Kind == seal.KindCore {
		return demand{registry.ActAdminister, registry.ScopeFleet()}
	}
	return demand{registry.ActSee, registry.ScopeSite(t.Site)}
}

func aboutNewToken(_ registry.View, _ registry.Action, in any) (subject, error) {
	ask, ok := in.(*createTokenInput)
	if !ok {
		return subject{}, fmt.Errorf("%T: %w", in, errScope)
	}
	var sub subject
	sub.do.action, sub.do.scope = registry.TokenAction(seal.Kind(ask.Body.Kind), ask.Body.Site)
	return sub, nil
}

// seeEvent is what it takes to hear of an event.
func seeEvent(e *registry.Event) demand {
	switch {
	case e.Site != "":
		return demand{registry.ActSee, registry.ScopeSite(e.Site)}
	case e.Operator != "", e.Token != "": // a token without a site is a core node's
		return demand{registry.ActAdminister, registry.ScopeFleet()}
	}
	return demand{registry.ActSee, registry.ScopeFleet()}
}

// A denial is a refusal of an operator, with the word under which it is counted. To its operator it is the error inside.
type denial struct {
	reason string
	err    error
}

// The reasons of denials.
const (
	reasonRole = "role" // it takes a higher one
	reasonSite = "site" // of others
)

// Error implements error.
func (d *denial) Error() string { return d.err.Error() }

// Unwrap is what the operator is told.
func (d *denial) Unwrap() error { return d.err }

// permit decides whether a request is served, by what the view says of its operator and of its subject.
func (a access) permit(v registry.View, who *registry.Operator, in any, now time.Time) error {
	if err := a.permitRole(who, now); err != nil {
		return err
	}
	if a.on.of == nil {
		return fmt.Errorf("%w: it is about nothing", registry.ErrForbidden)
	}
	sub, err := a.on.of(v, a.least, in)
	if err != nil {
		return err
	}
	if sub.hidden != nil && sub.see.permit(who, now) != nil {
		return &denial{reasonSite, sub.hidden}
	}
	if err := sub.do.permit(who, now); err != nil {
		reason := reasonSite
		if registry.Permit(who, sub.do.action, registry.ScopeOwn(), now) != nil {
			reason = reasonRole
		}
		return &denial{reason, err}
	}
	return nil
}

// permitRole decides whether the operator may use the route for anything at all.
func (a access) permitRole(who *registry.Operator, now time.Time) error {
	err := registry.Permit(who, a.least, registry.ScopeOwn(), now)
	if errors.Is(err, registry.ErrForbidden) {
		return &denial{reasonRole, err}
	}
	return err
}
