package seal

import (
	"crypto/ed25519"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A token made of given parts is the one whose string has them, and none of the parts is left out.
func TestTokenFrom(t *testing.T) {
	id, seed, pin := TokenID{1, 2}, [32]byte{3, 4}, ident.KeyID{5, 6}
	made := TokenFrom(id, seed, pin)
	read, err := ParseToken(made.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if *read != *made || read.ID != id || read.Pin != pin || read.seed != seed {
		t.Errorf("got %#v", read)
	}
	if want := ed25519.NewKeyFromSeed(seed[:]).Public(); !made.Public().Equal(want) {
		t.Error("the public half belongs to another seed")
	}
	for name, other := range map[string]*Token{
		"id": TokenFrom(TokenID{9}, seed, pin), "seed": TokenFrom(id, [32]byte{9}, pin), "pin": TokenFrom(id, seed, ident.KeyID{9}),
	} {
		if other.Reveal() == made.Reveal() {
			t.Errorf("another %s makes the same token", name)
		}
	}
}
