package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// ErrToken is the sentinel of a token string that does not parse. Its message never repeats the token.
var ErrToken = errors.New("not an enrollment token")

// A Kind is what a token enrolls.
type Kind string

// The kinds.
const (
	KindDevice  Kind = "device"
	KindGateway Kind = "gateway"
	KindCore    Kind = "core"
)

// A TokenID names a token in public: in lists, in logs, and as the key id of the proof.
type TokenID [8]byte

// String is the id in lower-case hex.
func (t TokenID) String() string { return hex.EncodeToString(t[:]) }

// ParseTokenID reads the form that String writes.
func ParseTokenID(s string) (TokenID, error) {
	var t TokenID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(t) || hex.EncodeToString(b) != s {
		return TokenID{}, fmt.Errorf("token id must be %d hex digits", hex.EncodedLen(len(t)))
	}
	copy(t[:], b)
	return t, nil
}

// A Token permits enrollment. The seed makes the signing key of the proof and never travels; the core keeps only the public
// half. Pin is the id of the fleet root's key, which the first contact is held against.
//
//	hf1_ base64url( id 8 bytes | seed 32 bytes | pin 32 bytes )
type Token struct {
	ID   TokenID
	Pin  ident.KeyID
	seed [ed25519.SeedSize]byte
}

const tokenPrefix = "hf1_"

// NewToken makes a token for the fleet whose root's key has the id pin.
func NewToken(pin ident.KeyID) *Token {
	t := &Token{Pin: pin}
	rand.Read(t.ID[:])   // crypto/rand.Read never fails
	rand.Read(t.seed[:]) // as above
	return t
}

// TokenFrom makes a token of an id and a seed that the caller has: one that nobody else can know.
func TokenFrom(id TokenID, seed [ed25519.SeedSize]byte, pin ident.KeyID) *Token {
	return &Token{ID: id, Pin: pin, seed: seed}
}

// ParseToken reads a token string; surrounding white space is ignored.
func ParseToken(s string) (*Token, error) {
	b64, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return nil, fmt.Errorf("does not start with %q: %w", tokenPrefix, ErrToken)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(b64)
	t := new(Token)
	if err != nil || len(b) != len(t.ID)+len(t.seed)+len(t.Pin) {
		return nil, fmt.Errorf("damaged or cut off: %w", ErrToken)
	}
	copy(t.ID[:], b)
	copy(t.seed[:], b[len(t.ID):])
	copy(t.Pin[:], b[len(t.ID)+len(t.seed):])
	return t, nil
}

// Reveal is the token string, the one place where the seed leaves the value.
func (t *Token) Reveal() string {
	b := append(append(append([]byte(nil), t.ID[:]...), t.seed[:]...), t.Pin[:]...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// String names the token without its secret, so that it may be logged.
func (t *Token) String() string { return "token " + t.ID.String() }

// GoString is String: no verb prints the seed.
func (t *Token) GoString() string { return t.String() }

// Public is the half that the core keeps.
func (t *Token) Public() ed25519.PublicKey { return t.key().Public().(ed25519.PublicKey) }

func (t *Token) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(t.seed[:]) }
