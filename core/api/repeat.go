package api

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	maxKey = 128 // characters of an idempotency key
	maxTag = 64  // characters of an ETag in If-Match

	keyHeader      = "Idempotency-Key"
	replayedHeader = "Idempotency-Replayed"
)

// onceOf is what makes a change with an idempotency key take effect once, or nil without one.
func onceOf(r *http.Request, rt *route, body []byte) (*command.Once, error) {
	given := r.Header.Values(keyHeader)
	if len(given) == 0 || !rt.changes() {
		return nil, nil
	}
	key := given[0]
	if len(given) > 1 || key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return nil, badHeader(keyHeader, "is not one key of 1 to %d printable ASCII characters", maxKey)
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(r.Method), []byte(r.URL.Path), canonicalJSON(body)} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return &command.Once{Key: sha256.Sum256([]byte(key)), Body: [32]byte(h.Sum(nil))}, nil
}

// canonicalJSON is one form of all JSON texts that say the same: without white space, names in order. What is no JSON stays
// as it is; its route refuses it.
func canonicalJSON(b []byte) []byte {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return b
	}
	out, err := json.Marshal(v)
	if err != nil {
		return b
	}
	return out
}

// revisionOf is the revision that If-Match asks for; 0: any.
func revisionOf(r *http.Request, rt *route) (uint64, error) {
	given := r.Header.Values("If-Match")
	switch {
	case len(given) == 0 || !rt.changes():
		return 0, nil
	case !rt.tagged:
		return 0, badHeader("If-Match", "is not taken by this route: its subject has no ETag")
	case len(given) == 1 && given[0] == "*":
		return 0, nil
	case len(given) == 1 && len(given[0]) <= maxTag:
		if rev, ok := parseTag(given[0]); ok {
			return rev, nil
		}
	}
	return 0, badHeader("If-Match", `is neither * nor one ETag as this API writes them, such as "r12" with its quotation marks`)
}

// tagOf is the ETag of a revision. It covers what the core and operators change in a record, not a device's presence.
func tagOf(revision uint64) string { return `"r` + strconv.FormatUint(revision, 10) + `"` }

// parseTag reads what tagOf wrote. Nothing has the revision 0.
func parseTag(text string) (uint64, bool) {
	rev, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(text, `"r`), `"`), 10, 64)
	return rev, err == nil && rev != 0 && tagOf(rev) == text
}

func badHeader(name, format string, args ...any) error {
	return problemf(http.StatusBadRequest, v1.ProblemInvalid, "header."+name, format, args...)
}

// tag gives the answer the ETag of a revision. A site that came into being with a token has none before it is set.
func (c *call) tag(revision uint64) {
	if revision != 0 {
		c.header.Set("ETag", tagOf(revision))
	}
}

// matches refuses what is asked about a record that is not the one that If-Match names. The registry has the last word, but
// what it would refuse anyway need not cost an entry of the log. Of a request with an idempotency key it is asked in any case:
// the record may have been changed by that request's own first time.
func (c *call) matches(revision uint64) error {
	if c.revision != 0 && c.revision != revision && c.once == nil {
		return registry.ErrRevision
	}
	return nil
}

// tell says in the answer to a request with an idempotency key whether what it tells was done before the request began.
func (c *call) tell(res any) {
	if c.once == nil {
		return
	}
	before := false
	switch res := res.(type) {
	case *registry.Device:
		before = res.Revision <= c.view.Audit().Count
	case *registry.Site:
		before = res.Revision <= c.view.Audit().Count
	case *registry.Token:
		old, ok := c.view.Token(res.ID)
		before = ok && (res.RevokedMS == 0 || old.RevokedMS != 0)
	case *registry.Operator:
		old, ok := c.view.OperatorByID(res.ID)
		before = ok && (res.RevokedMS == 0 || old.RevokedMS != 0)
	}
	c.replayed(before)
}

func (c *call) replayed(before bool) {
	if before && c.once != nil {
		c.header.Set(replayedHeader, "true")
	}
}

// The labels under which secrets are derived. Each is for ever.
const (
	labelTokenID    = "holdfast/api/token-id/v1"
	labelTokenSeed  = "holdfast/api/token-seed/v1"
	labelOperatorID = "holdfast/api/operator-id/v1"
	labelBearer     = "holdfast/api/bearer/v1"
)

// secret is 32 bytes that nobody else can know. With an idempotency key they are derived from it and from all that the request
// says, so that a repetition finds the same ones; otherwise they are random.
func (s *server) secret(c *call, label string) [32]byte {
	if c.once == nil {
		var b [32]byte
		rand.Read(b[:]) // crypto/rand.Read never fails
		return b
	}
	data := append([]byte(c.who.ID), c.once.Key[:]...)
	return s.Derive(label, append(data, c.once.Body[:]...))
}

// newSecret is the token that a call makes.
func (s *server) newSecret(c *call) *seal.Token {
	id := s.secret(c, labelTokenID)
	return seal.TokenFrom(seal.TokenID(id[:len(seal.TokenID{})]), s.secret(c, labelTokenSeed), s.Pin)
}

// newBearer is the id and the bearer token of the operator that a call makes.
func (s *server) newBearer(c *call) (id, bearer string) {
	name, secret := s.secret(c, labelOperatorID), s.secret(c, labelBearer)
	return "op-" + hex.EncodeToString(name[:6]), "hfo1_" + base64.RawURLEncoding.EncodeToString(secret[:])
}

// errForgotten is the answer to a request whose key is from before the time that keys are kept, and whose effect still is.
func errForgotten() error {
	return newProblem(http.StatusConflict, v1.ProblemReused, "header."+keyHeader, "made what it asks for more than a day ago: take another key for a new one")
}

// errLost is the answer when the first reply's secret cannot be made again.
func errLost(what string) error {
	return newProblem(http.StatusConflict, v1.ProblemConflict, "header."+keyHeader,
		what+" was made the first time, and the core's keys were changed since, so that its secret cannot be shown again: revoke it, and make another with another key")
}
