package registry

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
)

// A Role is what an operator may do. Each includes those before it.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // sees
	RoleOperator Role = "operator" // changes devices and sites, and lets devices and gateways in
	RoleAdmin    Role = "admin"    // decides who else may, and what the core consists of
)

// rank orders the roles; 0 is no role.
func (r Role) rank() int {
	return 1 + slices.Index([]Role{RoleViewer, RoleOperator, RoleAdmin}, r)
}

// An Operator is somebody with a bearer token for the API.
type Operator struct {
	ID        string   `cbor:"1,keyasint"`
	Name      string   `cbor:"2,keyasint"`
	Hash      [32]byte `cbor:"3,keyasint"` // SHA-256 of the token
	Role      Role     `cbor:"4,keyasint"`
	Sites     []string `cbor:"5,keyasint,omitempty"` // what it is limited to; empty: the whole fleet
	CreatedMS int64    `cbor:"6,keyasint"`
	ExpiresMS int64    `cbor:"7,keyasint,omitempty"` // 0: never
	RevokedMS int64    `cbor:"8,keyasint,omitempty"` // 0: it was not
	By        string   `cbor:"9,keyasint,omitempty"` // id of the operator who made it
	UsedMS    int64    `cbor:"10,keyasint,omitempty"`
	UsedFrom  string   `cbor:"11,keyasint,omitempty"` // address
}

// Usable tells whether the operator's token still opens anything at log time now.
func (o *Operator) Usable(now time.Time) bool {
	return o.RevokedMS == 0 && (o.ExpiresMS == 0 || now.UnixMilli() < o.ExpiresMS)
}

// Sees tells whether the operator's site limits include a site.
func (o *Operator) Sees(site string) bool { return len(o.Sites) == 0 || slices.Contains(o.Sites, site) }

// An Action is what an operator wants to do, as far as permission depends on it.
type Action uint8

// The actions.
const (
	ActNone       Action = iota // nobody may
	ActSee                      // read
	ActOperate                  // change devices and sites, let devices and gateways in
	ActAdminister               // operators, core nodes, the audit trail
)

func (a Action) role() Role {
	switch a {
	case ActNone:
		return ""
	case ActSee:
		return RoleViewer
	case ActOperate:
		return RoleOperator
	case ActAdminister:
		return RoleAdmin
	}
	return ""
}

// A Scope is what an action is about.
type Scope struct {
	kind scopeKind
	site string
}

type scopeKind uint8

const (
	scopeFleet scopeKind = iota // the zero Scope is the widest: it takes an operator without site limits
	scopeSite
	scopeOwn
)

// ScopeFleet is the fleet as a whole.
func ScopeFleet() Scope { return Scope{} }

// ScopeSite is what belongs to one site.
func ScopeSite(name string) Scope { return Scope{kind: scopeSite, site: name} }

// ScopeOwn is whatever the operator sees: lists, which leave out the rest, and what is about the operator itself.
func ScopeOwn() Scope { return Scope{kind: scopeOwn} }

// Refusals of an operator.
var (
	ErrUnauthenticated = errors.New("the operator's token is unknown, expired or revoked")
	ErrForbidden       = errors.New("not permitted")
)

// Permit is the one place that decides what an operator may do: the API asks it about every request, and Apply about every
// command, so that a permission that ended between the two ended in time. What it does not expressly permit is refused.
func Permit(o *Operator, act Action, on Scope, now time.Time) error {
	if o == nil || !o.Usable(now) {
		return ErrUnauthenticated
	}
	need := act.role()
	if need == "" || o.Role.rank() == 0 || o.Role.rank() < need.rank() {
		return fmt.Errorf("%w: it takes the role %s, and %s has %s", ErrForbidden, need, o.Name, o.Role)
	}
	switch on.kind {
	case scopeOwn:
		return nil
	case scopeSite:
		if !o.Sees(on.site) {
			return fmt.Errorf("%w: %s is limited to other sites", ErrForbidden, o.Name)
		}
		return nil
	case scopeFleet:
		if len(o.Sites) > 0 {
			return fmt.Errorf("%w: it is about the whole fleet, and %s is limited to sites", ErrForbidden, o.Name)
		}
		return nil
	}
	return ErrForbidden
}

// A bearer leads from a token to its operator.
type bearer struct {
	Hash     [32]byte
	Operator string
}

// maxOperators bounds the operators of a fleet, those that were revoked included.
const maxOperators = 1000

// createOperator makes an operator. Result: *Operator.
func (a *applier) createOperator(c *command.CreateOperator) any {
	in := c.Operator
	if _, ok := a.view.operators.get(in.ID); ok || in.ID == "" {
		return fmt.Errorf("operator %q: %w", in.ID, ErrExists)
	}
	if _, ok := a.view.bearers.get(in.Hash); ok {
		return fmt.Errorf("the token of operator %q: %w", in.ID, ErrExists)
	}
	if Role(in.Role).rank() == 0 {
		return fmt.Errorf("role %q: %w", in.Role, ErrInvalid)
	}
	if a.view.operators.len() >= maxOperators {
		return fmt.Errorf("there are %d operators, and more are not kept: %w", maxOperators, ErrInvalid)
	}
	o := a.putOperator(&in, c.By.Operator)
	a.event(EventOperatorCreated, Subject{Operator: o.ID}, map[string]string{"name": o.Name, "role": string(o.Role), "by": c.By.Operator})
	return o
}

func (a *applier) putOperator(in *command.Operator, by string) *Operator {
	sites := slices.Clone(in.Sites)
	slices.Sort(sites)
	o := &Operator{
		ID: in.ID, Name: in.Name, Hash: in.Hash, Role: Role(in.Role), Sites: slices.Compact(sites), CreatedMS: a.ms, ExpiresMS: in.ExpiresMS, By: by,
	}
	a.view.operators.put(o)
	a.view.bearers.put(&bearer{Hash: o.Hash, Operator: o.ID})
	return o
}

// revokeOperator ends an operator's token. Result: *Operator.
func (a *applier) revokeOperator(c *command.RevokeOperator) any {
	old, ok := a.view.operators.get(c.ID)
	if !ok {
		return fmt.Errorf("operator %s: %w", c.ID, ErrNotFound)
	}
	if old.RevokedMS != 0 {
		return old
	}
	if !a.adminBeside(c.ID) {
		return fmt.Errorf("%s is the only administrator of the whole fleet whose token does not expire: make another first: %w", c.ID, ErrInvalid)
	}
	o := *old
	o.RevokedMS = a.ms
	a.view.operators.put(&o)
	a.event(EventOperatorRevoked, Subject{Operator: o.ID}, map[string]string{"name": o.Name, "by": c.By.Operator})
	return &o
}

// adminBeside tells whether somebody but id can still administer the fleet, for good: nobody is to lock himself out.
func (a *applier) adminBeside(id string) bool {
	found := false
	a.view.operators.all(func(o *Operator) bool {
		found = o.ID != id && o.Role == RoleAdmin && len(o.Sites) == 0 && o.ExpiresMS == 0 && o.RevokedMS == 0
		return !found
	})
	return found
}

// operatorsUsed notes when operators were last heard. Result: nil.
func (a *applier) operatorsUsed(c *command.OperatorsUsed) any {
	for i := range c.Items {
		it := &c.Items[i]
		old, ok := a.view.operators.get(it.ID)
		at := min(it.AtMS, a.ms)
		if !ok || at <= old.UsedMS {
			continue
		}
		o := *old
		o.UsedMS, o.UsedFrom = at, it.Source
		a.view.operators.put(&o)
	}
	return nil
}
