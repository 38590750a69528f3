package credential

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// An Enrollment is a request for an identity.
type Enrollment struct {
	Dir    string
	Token  *seal.Token
	Kind   seal.Kind
	Server ident.Role // whom it is asked of: a gateway by devices, the core by everybody else
	Name   string     // gateways, core nodes
	Listen string     // gateways
	Node   *Node      // core nodes
	Wall   func() time.Time
	Log    *slog.Logger
}

// A Node is what a core node says of itself when it joins.
type Node struct {
	API, Uplink, Cluster string // host:port
	Holder               []byte // the public key that the fleet key is to be wrapped to
}

// answerTime bounds the wait for an answer: the one who answers may have to ask the core.
const answerTime = 20 * time.Second

// Waits between rounds of attempts.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// EnrollAny is Enroll at the first of several servers that answers, given as host:port. What time may heal, a server that
// cannot be reached or that asks for patience, is tried again until ctx ends; a refusal that it cannot heal is returned at
// once.
func EnrollAny(ctx context.Context, d *link.Dialer, servers []string, e Enrollment) (*Credential, *wire.Enrolled, error) {
	if len(servers) == 0 {
		return nil, nil, fmt.Errorf("no server to enroll with: %w", ErrNone)
	}
	b := backoff.Backoff{Min: minBackoff, Max: maxBackoff}
	for i := 0; ; i++ {
		server := servers[i%len(servers)]
		c, out, err := Enroll(ctx, d, server, e)
		if err == nil || !passing(err) {
			return c, out, err
		}
		wait := b.Next()
		if refusal, ok := errors.AsType[*wire.Error](err); ok {
			wait = max(wait, refusal.RetryAfter())
		}
		e.Log.Warn("not enrolled yet", "server", server, "err", err, "retry_in", wait.Round(time.Millisecond).String())
		if !backoff.Sleep(ctx, wait) {
			return nil, nil, err
		}
	}
}

// passing tells whether time may heal the error of an enrollment.
func passing(err error) bool {
	if refusal, ok := errors.AsType[*wire.Error](err); ok {
		return refusal.Code.Temporary()
	}
	var op *net.OpError
	return errors.Is(err, link.ErrClosed) && !errors.Is(err, ident.ErrUntrusted) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &op)
}

// Enroll asks the server at addr, host:port, for an identity and stores it. The key is made, and stored, before anything is sent, so that a retry after
// a lost reply presents the same key and gets the same identity. A directory that has an identity of the token's fleet keeps
// it: nothing is asked, and there is no answer. ErrEnrolled says that it has one of another fleet or kind.
func Enroll(ctx context.Context, d *link.Dialer, addr string, e Enrollment) (*Credential, *wire.Enrolled, error) {
	switch c, err := Load(e.Dir); {
	case err == nil && c.Trust.Pin() == e.Token.Pin && string(c.ID.Role) == string(e.Kind):
		return c, nil, nil
	case err == nil:
		return nil, nil, fmt.Errorf("%s: %w as %v", e.Dir, ErrEnrolled, c.ID)
	case !errors.Is(err, ErrNone):
		return nil, nil, err
	}
	key, err := makeKey(e.Dir)
	if err != nil {
		return nil, nil, err
	}
	csr, err := ident.NewCSR(key)
	if err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode the public key: %w", err)
	}
	to := link.Target{Addr: addr, TLS: ident.FirstContact(e.Token.Pin, e.Server, e.Wall)}
	a, err := link.Open(ctx, d, to, func(s *link.Session) (*answer, error) { return e.ask(s, csr, spki) })
	if err != nil {
		return nil, nil, err
	}
	c := &Credential{Key: key, slots: durable.OpenSlots(filepath.Join(e.Dir, identityFile))}
	out := a.enrolled
	n := stored{Identity: out.Identity, Chain: out.Chain, Root: out.Root, Authority: out.Authority}
	if err := c.accept(n, a.trust, e.Kind); err != nil {
		return nil, nil, fmt.Errorf("the identity that was answered: %w", err)
	}
	return c, out, c.store(n)
}

// accept checks an answer before anything of it is stored: the root must be the pinned one, and the chain must certify this
// box's own key.
func (c *Credential) accept(n stored, trust *ident.Trust, kind seal.Kind) error {
	if string(n.Root) != string(trust.Root.Raw) {
		return fmt.Errorf("another root than the token names: %w", ident.ErrUntrusted)
	}
	c.now = n
	if err := c.open(); err != nil {
		return err
	}
	if string(c.ID.Role) != string(kind) {
		return fmt.Errorf("role %s, want %s: %w", c.ID.Role, kind, ident.ErrUntrusted)
	}
	return nil
}

// An answer is an identity, and the trust in whoever gave it.
type answer struct {
	enrolled *wire.Enrolled
	trust    *ident.Trust
}

// ask holds the one exchange of an enrollment, and closes the session.
func (e *Enrollment) ask(s *link.Session, csr, spki []byte) (*answer, error) {
	defer s.Close()
	trust, err := ident.PinnedTrust(s.TLS().PeerCertificates, e.Token.Pin)
	if err != nil {
		return nil, err
	}
	proof, err := seal.SealEnroll(e.Token, trust.Fleet, e.Kind, spki)
	if err != nil {
		return nil, err
	}
	m := wire.Enroll{Capability: wire.Capability, CSR: csr, Proof: proof, Name: e.Name, Listen: e.Listen}
	if e.Node != nil {
		m.API, m.Uplink, m.Cluster, m.Holder = e.Node.API, e.Node.Uplink, e.Node.Cluster, e.Node.Holder
	}
	err = s.Send(wire.TypeEnroll, m)
	if err != nil {
		return nil, err
	}
	t, body, err := s.RecvWithin(answerTime)
	if err != nil {
		return nil, err
	}
	switch t {
	case wire.TypeEnrolled:
		a := &answer{new(wire.Enrolled), trust}
		return a, wire.Unmarshal(body, a.enrolled)
	case wire.TypeError:
		refusal := new(wire.Error)
		if err := wire.Unmarshal(body, refusal); err != nil {
			return nil, err
		}
		return nil, refusal
	default:
		return nil, fmt.Errorf("answer is %v, want enrolled: %w", t, wire.ErrMalformed)
	}
}
