package settings

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hosts are the targets' nodes in the order in which they are tried.
func hosts(t Target) string {
	var out []string
	for _, n := range t.Nodes {
		out = append(out, n.Host)
	}
	return strings.Join(out, " ")
}

func TestResolveNodes(t *testing.T) {
	ca := newCA(t)
	many := make([]string, 2*maxNodes)
	for i := range many {
		many[i] = "https://n" + strconv.Itoa(i)
	}
	for name, tc := range map[string]struct {
		o     Overrides
		nodes []string
		want  string
	}{
		"none stored":               {Overrides{}, nil, "a:1"},
		"stored, the address in it": {Overrides{}, []string{"https://b:1", "https://a:1"}, "b:1 a:1"},
		"stored, without it":        {Overrides{}, []string{"https://b:1", "https://c:1"}, "b:1 c:1 a:1"},
		"an address by hand":        {Overrides{URL: "https://d:1"}, []string{"https://b:1"}, "d:1"},
		"damaged":                   {Overrides{}, []string{"http://b", "", "https://b/x", "https://c:1"}, "c:1 a:1"},
	} {
		got, err := Resolve(tc.o, Context{URL: "https://a:1", Token: "x", CA: ca, Nodes: tc.nodes}, strings.NewReader(""))
		if err != nil || hosts(got) != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, hosts(got), err, tc.want)
		}
	}
	if got, err := Resolve(Overrides{}, Context{URL: "https://a:1", Token: "x", CA: ca, Nodes: many}, nil); err != nil || len(got.Nodes) != maxNodes+1 {
		t.Errorf("%d nodes, %v", len(got.Nodes), err)
	}
}

func TestNodes(t *testing.T) {
	told := []string{
		"10.0.0.1:8443", "0.0.0.0:8443", "[::]:8443", ":8443", "", "nonsense", "a b:1", "core-2.example.com:8443", "[2001:db8::1]:8443", "10.0.0.1:8443", "core-2.example.com:8443",
	}
	want := []string{"https://core-2.example.com:8443", "https://10.0.0.1:8443", "https://[2001:db8::1]:8443"}
	if got := Nodes("https://core-2.example.com:8443", told); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var many []string
	for i := range 10 * maxNodes {
		many = append(many, "n"+strconv.Itoa(i)+":1")
	}
	if got := Nodes("https://a:1", many); len(got) != maxNodes {
		t.Errorf("%d nodes are kept", len(got))
	}
}

// today is a context as earlier versions stored it.
const today = `url: https://core-1:8443
token: hfo1_secret
ca: |
    -----BEGIN CERTIFICATE-----
    -----END CERTIFICATE-----
fleet: acme
operator: admin
`

func TestContextOfAnEarlierVersion(t *testing.T) {
	path := file(t, today)
	c, open, err := Load(path)
	want := Context{URL: "https://core-1:8443", Token: "hfo1_secret", CA: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", Fleet: "acme", Operator: "admin"}
	if !reflect.DeepEqual(c, want) || open || err != nil {
		t.Errorf("reads as %+v, %v, %v", c, open, err)
	}
	now := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	if !c.Stale(now) {
		t.Error("a list that was never read is taken for good")
	}
	if err := SaveNodes(path, c, []string{"https://b:1", "https://a:1"}, now); err != nil {
		t.Fatal(err)
	}
	got, open, err := Load(path)
	if got.Token != want.Token || got.CA != want.CA || len(got.Nodes) != 2 || !got.NodesAt.Equal(now) || open || err != nil {
		t.Errorf("after it was given nodes: %+v, %v, %v", got, open, err)
	}
	for d, stale := range map[time.Duration]bool{0: false, smallAge - time.Second: false, smallAge: true, -time.Second: true} {
		if got.Stale(now.Add(d)) != stale {
			t.Errorf("of few nodes, after %v: stale %v", d, !stale)
		}
	}
	got.Nodes = []string{"https://a:1", "https://b:1", "https://c:1"}
	for d, stale := range map[time.Duration]bool{0: false, nodesAge - time.Second: false, nodesAge: true, -time.Second: true} {
		if got.Stale(now.Add(d)) != stale {
			t.Errorf("after %v: stale %v", d, !stale)
		}
	}
}

// A command that runs long must not bring back a context that was replaced by another login.
func TestSaveNodesLeavesAnotherLogin(t *testing.T) {
	path := file(t, today)
	loaded, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []Context{
		{URL: "https://other:1", Token: loaded.Token, CA: loaded.CA}, {URL: loaded.URL, Token: "other", CA: loaded.CA}, {URL: loaded.URL, Token: loaded.Token, CA: "other"},
	} {
		if err := Save(path, other); err != nil {
			t.Fatal(err)
		}
		if err := SaveNodes(path, loaded, []string{"https://b:1"}, time.Unix(0, 0)); !errors.Is(err, ErrConfig) || !errors.Is(err, errReplaced) {
			t.Errorf("saved over %+v: %v", other, err)
		}
		if got, _, err := Load(path); err != nil || !reflect.DeepEqual(got, other) {
			t.Errorf("the other login became %+v, %v", got, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := SaveNodes(path, loaded, nil, time.Unix(0, 0)); !errors.Is(err, errReplaced) {
		t.Errorf("after a logout: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file came back: %v", err)
	}
}

func TestAuthorities(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	if certs, err := Authorities(Overrides{}, Context{CA: ca + other}); err != nil || len(certs) != 2 {
		t.Errorf("stored: %d, %v", len(certs), err)
	}
	if certs, err := Authorities(Overrides{CAFile: file(t, other)}, Context{CA: ca + other}); err != nil || len(certs) != 1 {
		t.Errorf("named: %d, %v", len(certs), err)
	}
	for _, o := range []Overrides{{}, {CAFile: filepath.Join(t.TempDir(), "none")}, {CAFile: file(t, "text")}} {
		if _, err := Authorities(o, Context{}); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
