package cli

import (
	"crypto/ed25519"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

var fleetAuthority = ed25519.NewKeyFromSeed([]byte("the authority of a fleet of ours"))

// sealFirst signs set 1 as the core does.
func (w *workshop) sealFirst(t *testing.T, name string) *seal.PublisherSet {
	t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	set := new(seal.PublisherSet)
	if err := wire.Unmarshal(b, set); err != nil {
		t.Fatal(err)
	}
	signature, err := seal.SignPublisherSet(set, fleetAuthority)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal.JoinPublisherSet(signature)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, name, string(sealed))
	return set
}

// withSet is a workshop with keys and a sealed set 1, of which two root keys of three must sign the next.
func withSet(t *testing.T) (*workshop, *seal.PublisherSet) {
	t.Helper()
	w := newWorkshop(t)
	for _, k := range []string{"r1", "r2", "r3", "r4", "ci", "release"} {
		w.key(t, k)
	}
	w.must(t, "publishers", "new", w.path("set-1"), "--fleet", "plant", "--threshold", "2", "--root", w.path("r1.pub"), "--root", w.path("r2.pub"),
		"--root", w.path("r3.pub"), "--publisher", "ci="+w.path("ci.pub"))
	return w, w.sealFirst(t, "set-1")
}

func TestPublishersFromSetToSet(t *testing.T) {
	w, first := withSet(t)
	r1 := into[signingKey](t, w.must(t, "keys", "show", w.path("r1.pub"), "-o", "json"))
	made := into[shownSet](t, w.must(t, "publishers", "new", w.path("set-2"), "--from", w.path("set-1"), "--remove-publisher", "ci",
		"--publisher", "release="+w.path("release.pub"), "--remove-root", r1.ID[:8], "--root", w.path("r4.pub"), "-o", "json"))
	if made.Number != 2 || made.Fleet != "plant" || made.Threshold != 2 || len(made.Roots) != 3 || len(made.Publishers) != 1 || made.Publishers[0].Name != "release" || made.Complete {
		t.Errorf("%+v", made)
	}
	sign := func(key string) shownSet {
		return into[shownSet](t, w.must(t, "publishers", "sign", w.path("set-2"), "--from", w.path("set-1"), "--key", w.path(key), "-o", "json"))
	}
	for _, key := range []string{"r1", "r1"} { // the second time it takes the place of the first
		if s := sign(key); len(s.Signatures) != 1 || s.Signatures[0] != (shownSignature{r1.ID, true}) || s.Wanted != 2 || s.Complete {
			t.Errorf("after one root: %+v", s)
		}
	}
	if s := sign("r3"); len(s.Signatures) != 2 || !s.Complete {
		t.Errorf("after two roots: %+v", s)
	}
	b, err := os.ReadFile(w.path("set-2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.OpenPublisherSet(b, "plant", first, nil); err != nil {
		t.Error(err)
	}
	text := w.must(t, "publishers", "show", w.path("set-2"), "--from", w.path("set-1"))
	for _, want := range []string{"Set:", "release:", "2 of 3 sign the next set", "enough", r1.ID + ", verified"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := w.must(t, "publishers", "show", w.path("set-1")); !strings.Contains(text, "authority") || !strings.Contains(text, "not verified") {
		t.Errorf("table: %s", text)
	}
}

func TestPublishersRefuse(t *testing.T) {
	w, _ := withSet(t)
	set := func(name string, args ...string) {
		w.must(t, append([]string{"publishers", "new", w.path(name)}, args...)...)
	}
	set("set-2", "--from", w.path("set-1"))
	set("foreign", "--fleet", "other", "--root", w.path("r1.pub"))
	w.sealFirst(t, "foreign")
	set("foreign-2", "--from", w.path("foreign"))
	w.must(t, "publishers", "sign", w.path("foreign-2"), "--from", w.path("foreign"), "--key", w.path("r1"))
	set("foreign-3", "--from", w.path("foreign-2"))
	for _, c := range []struct {
		want string
		args []string
	}{
		{"want --from for the next set", []string{"new", w.path("x")}},
		{"want --from for the next set", []string{"new", w.path("x"), "--from", w.path("set-1"), "--fleet", "plant"}},
		{"0 root keys", []string{"new", w.path("x"), "--fleet", "plant"}},
		{"threshold 2 of 1", []string{"new", w.path("x"), "--fleet", "plant", "--threshold", "2", "--root", w.path("r1.pub")}},
		{"is there already", []string{"new", w.path("set-1"), "--fleet", "plant", "--root", w.path("r1.pub")}},
		{"is not sealed", []string{"new", w.path("x"), "--from", w.path("set-2")}},
		{`no publisher "nobody"`, []string{"new", w.path("x"), "--from", w.path("set-1"), "--remove-publisher", "nobody"}},
		{"0 root keys of the set before", []string{"new", w.path("x"), "--from", w.path("set-1"), "--remove-root", "0000000000"}},
		{"3 root keys of the set before", []string{"new", w.path("x"), "--from", w.path("set-1"), "--remove-root", ""}},
		{"is a root key already", []string{"new", w.path("x"), "--from", w.path("set-1"), "--root", w.path("r1.pub")}},
		{"threshold 2 of 1 root keys", []string{"new", w.path("x"), "--from", w.path("foreign"), "--threshold", "2"}},
		{"is not KEY=VALUE", []string{"new", w.path("x"), "--from", w.path("set-1"), "--publisher", "ci"}},
		{`want a "PUBLIC KEY"`, []string{"new", w.path("x"), "--from", w.path("set-1"), "--publisher", "ci=" + w.path("ci")}},
		{"--key is missing", []string{"sign", w.path("set-2"), "--from", w.path("set-1")}},
		{"--from is missing", []string{"sign", w.path("set-2"), "--key", w.path("r1")}},
		{"is no root key of set 1", []string{"sign", w.path("set-2"), "--from", w.path("set-1"), "--key", w.path("r4")}},
		{"does not follow", []string{"sign", w.path("set-2"), "--from", w.path("foreign"), "--key", w.path("r1")}},
		{"does not follow", []string{"sign", w.path("foreign-3"), "--from", w.path("foreign"), "--key", w.path("r1")}},
		{"does not follow", []string{"sign", w.path("set-1"), "--from", w.path("set-1"), "--key", w.path("r1")}},
		{"is not sealed", []string{"sign", w.path("set-2"), "--from", w.path("set-2"), "--key", w.path("r1")}},
		{"holds no set of publishers", []string{"show", w.path("r1.pub")}},
		{"no such file", []string{"show", w.path("nothing")}},
	} {
		w.fails(t, exitUsage, c.want, append([]string{"publishers"}, c.args...)...)
	}
	if _, err := os.Stat(w.path("x")); err == nil {
		t.Error("a refused set was written")
	}
}
