package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/settings"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// three is a core of three nodes on a direct network, each with what the operator's requests to it were.
func three() (direct, map[string]*fakeCore) {
	cores := map[string]*fakeCore{}
	network := direct{}
	for _, name := range []string{"core-1:8443", "core-2:8443", "core-3:8443"} {
		c := newFleet()
		c.cluster.Nodes = []v1.Node{{Name: "core-1", API: "core-1:8443"}, {Name: "core-2", API: "core-2:8443"}, {Name: "core-3", API: "core-3:8443"}}
		cores[name], network[name] = c, c
	}
	return network, cores
}

func (u *user) stored(t *testing.T) settings.Context {
	t.Helper()
	path := filepath.Join(u.home, ".config", "holdfast", "config.yaml")
	c, open, err := settings.Load(path)
	if err != nil || open {
		t.Fatalf("stored context: open %v, %v", open, err)
	}
	return c
}

// nodesStored are the hosts of the stored nodes, in turn.
func (u *user) nodesStored(t *testing.T) string {
	t.Helper()
	return strings.ReplaceAll(strings.ReplaceAll(strings.Join(u.stored(t).Nodes, " "), "https://", ""), ":8443", "")
}

// TestLoginStoresNodes follows the list of nodes: made at login, kept for a day, and made anew when a node fails.
func TestLoginStoresNodes(t *testing.T) {
	network, cores := three()
	u := over(t, network, "core-2:8443")
	if got := u.nodesStored(t); got != "core-2 core-1 core-3" {
		t.Errorf("login stored %q", got)
	}
	asked := func(name string) []string { return cores[name].seen() }
	before := len(asked("core-2:8443"))
	u.must(t, "sites", "list")
	if got := asked("core-2:8443")[before:]; len(got) != 1 {
		t.Errorf("a list that is fresh was read again: %q", got)
	}
	// A day later it is read again, once.
	for _, c := range cores {
		c.cluster.Nodes = append(c.cluster.Nodes, v1.Node{Name: "core-4", API: "core-4:8443"})
	}
	old := u.stored(t)
	old.NodesAt = old.NodesAt.Add(-25 * time.Hour)
	if err := settings.Save(filepath.Join(u.home, ".config", "holdfast", "config.yaml"), old); err != nil {
		t.Fatal(err)
	}
	before = len(asked("core-2:8443"))
	u.must(t, "sites", "list")
	u.must(t, "sites", "list")
	if got := asked("core-2:8443")[before:]; !slices.Equal(got, []string{"GET /v1/sites?limit=500", "GET /v1/cluster", "GET /v1/sites?limit=500"}) {
		t.Errorf("after a day: %q", got)
	}
	if got := u.nodesStored(t); got != "core-2 core-1 core-3 core-4" {
		t.Errorf("after a day %q are stored", got)
	}
	// The node dies: the next one answers, and is asked first from then on.
	delete(network, "core-2:8443")
	u.must(t, "sites", "list")
	if got := u.nodesStored(t); got != "core-1 core-2 core-3 core-4" {
		t.Errorf("after a node died %q are stored", got)
	}
	if info, err := os.Stat(filepath.Join(u.home, ".config", "holdfast", "config.yaml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if c := u.stored(t); c.Token != goodToken || c.URL != "https://core-2:8443" {
		t.Errorf("token or address were changed: %+v", c)
	}
	// Who names a node means that one.
	u.env["HOLDFAST_URL"] = "https://core-2:8443"
	if r := u.run(t, "sites", "list"); r.code != exitUnavailable {
		t.Errorf("a dead node by name: exit %d, %s", r.code, r.err)
	}
}

// A core that tells this operator nothing of its nodes is not asked with every command.
func TestNodesForbidden(t *testing.T) {
	network, cores := three()
	n := 0
	for _, c := range cores {
		c.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v1/cluster" {
				return false
			}
			n++
			refuse(w, http.StatusForbidden, "not for you")
			return true
		}
	}
	u := over(t, network, "core-1:8443")
	for range 3 {
		u.must(t, "sites", "list")
	}
	if got := u.nodesStored(t); n != 2 || got != "core-1" {
		t.Errorf("asked %d times, want once at login and once after; stored %q", n, got)
	}
}

// A context of an earlier version has no nodes: it works, and gets them.
func TestContextWithoutNodes(t *testing.T) {
	network, _ := three()
	u := over(t, network, "core-1:8443")
	path := filepath.Join(u.home, ".config", "holdfast", "config.yaml")
	c := u.stored(t)
	c.Nodes, c.NodesAt = nil, time.Time{}
	if err := settings.Save(path, c); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "nodes") {
		t.Fatalf("the context is %s, %v", b, err)
	}
	u.must(t, "cluster", "status")
	if got := u.nodesStored(t); got != "core-1 core-2 core-3" {
		t.Errorf("stored %q", got)
	}
}

// A keyed store does each change once for each key, as the core's registry does, whichever node it came through.
type keyed struct {
	mu   sync.Mutex
	done map[string]int
}

func (k *keyed) do(r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done == nil {
		k.done = map[string]int{}
	}
	k.done[r.Header.Get("Idempotency-Key")]++
}

// TestChangeIsMadeOnce cuts the connection after the first node has made the change, in each way in which a node can go.
func TestChangeIsMadeOnce(t *testing.T) {
	for name, first := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"cut":             func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"outcome unknown": func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, 504, "who knows"); return true },
	} {
		t.Run(name, func(t *testing.T) {
			network, cores := three()
			u := over(t, network, "core-1:8443")
			var store keyed
			for node, c := range cores {
				c.hook = func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodPut {
						return false
					}
					store.do(r)
					return node == "core-1:8443" && first(w, r)
				}
			}
			out := u.must(t, "sites", "set", "plant-9", "--heartbeat-interval", "2s")
			if out != "site plant-9: heartbeat interval set to 2s\n" {
				t.Errorf("said %q", out)
			}
			if len(store.done) != 1 || store.done[""] > 0 {
				t.Errorf("the keys %v are more than one change", store.done)
			}
			for _, n := range store.done {
				if n != 2 {
					t.Errorf("sent %d times", n)
				}
			}
		})
	}
}

// When no node tells the outcome in time, the operator is told that nobody knows it.
func TestOutcomeUnknownIsTold(t *testing.T) {
	network, cores := three()
	u := over(t, network, "core-1:8443")
	for _, c := range cores {
		c.hook = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	}
	synctest.Test(t, func(t *testing.T) {
		r := u.run(t, "sites", "set", "plant-9")
		if r.code != exitFailure || !strings.Contains(r.err, "the outcome is unknown: no node told it within 15s") || !strings.HasSuffix(r.err, "; read the state before you try again\n") {
			t.Errorf("exit %d, %s", r.code, r.err)
		}
	})
}

// What changes the core itself may take a minute.
func TestClusterChangesAreWaitedFor(t *testing.T) {
	network, cores := three()
	u := over(t, network, "core-1:8443")
	asked := 0
	cores["core-1:8443"].hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			return false
		}
		asked++
		if sleep(r.Context(), 50*time.Second) != nil {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	synctest.Test(t, func(t *testing.T) {
		for _, args := range []string{"cluster snapshot", "cluster remove core-3", "cluster transfer-leadership"} {
			before := asked
			if r := u.run(t, strings.Fields(args)...); r.code != exitOK || asked != before+1 {
				t.Errorf("%s: exit %d, sent %d times, %s", args, r.code, asked-before, r.err)
			}
		}
	})
}

// TestEventsMoveOn follows events over the end of each node's stream: each goes on at the next node behind the last event.
func TestEventsMoveOn(t *testing.T) {
	network, cores := three()
	u := over(t, network, "core-1:8443")
	full := cores["core-1:8443"].events
	cores["core-1:8443"].events = full[:1]
	synctest.Test(t, func(t *testing.T) {
		r := u.run(t, "events", "--after", "0", "--count", "2", "-o", "json")
		if r.code != exitOK || strings.Count(r.out, `"index":41`) != 1 || strings.Count(r.out, `"index":42`) != 1 {
			t.Errorf("exit %d, %s%s", r.code, r.out, r.err)
		}
	})
	second := cores["core-2:8443"].seen()
	if !slices.ContainsFunc(second, func(s string) bool { return strings.HasPrefix(s, "GET /v1/events?after=41") }) {
		t.Errorf("the next node was asked %q", second)
	}
}

// TestIfRevision sends the condition in each way in which it can be written, and none without it.
func TestIfRevision(t *testing.T) {
	core := newFleet()
	u := at(t, core.serve(t))
	for _, args := range []string{
		"devices tag 3fa line=4 --if-revision 12", "devices set 3fa --heartbeat-interval 2s --if-match r12", `sites set plant-7 --if-match "r12"`,
		"devices tag 3fa line=4",
	} {
		u.must(t, strings.Fields(args)...)
	}
	if want := []string{`"r12"`, `"r12"`, `"r12"`}; !slices.Equal(core.tagged, want) {
		t.Errorf("sent %q, want %q", core.tagged, want)
	}
	core.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-Match") != "" {
			refuse(w, http.StatusPreconditionFailed, "the device has revision 13")
		}
		return r.Header.Get("If-Match") != ""
	}
	r := u.run(t, "devices", "release", idA, "--if-revision", "12")
	if r.code != exitConflict || !strings.Contains(r.err, "the device has revision 13") {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	for _, bad := range []string{"x", "r", "-1", "w/12", ""} {
		if r := u.run(t, "devices", "release", idA, "--if-revision", bad); r.code != exitUsage {
			t.Errorf("--if-revision %q: exit %d, %s", bad, r.code, r.err)
		}
	}
}

// TestSecretsToFiles stores what is shown once, and undoes what it cannot store.
func TestSecretsToFiles(t *testing.T) {
	core := newFleet()
	core.operators[0].ID, core.tokens[0].ID = "op-9f3a", "tk9f3a" // so that the fake core can revoke what it makes
	u := at(t, core.serve(t))
	for _, tc := range []struct {
		args []string
		want string // in the file
		said string
		undo string
	}{
		{[]string{"operators", "create", "ci", "--role", "viewer"}, "hfo1_new\n", "created operator op-9f3a (ci): role viewer for the whole fleet, expires never; stored in ", "DELETE /v1/operators/op-9f3a"},
		{[]string{"cluster", "invite"}, "hf1_secret\n", "created core token tk9f3a: 1 use, expires in 15m (2026-05-01T10:15:00Z); stored in ", "DELETE /v1/tokens/tk9f3a"},
	} {
		path := filepath.Join(u.home, "secret of "+tc.args[0])
		args := append(tc.args, "--token-out", path)
		out := u.must(t, args...)
		if !strings.HasPrefix(out, tc.said+path+"\n") || strings.Contains(out, strings.TrimSpace(tc.want)) {
			t.Errorf("%q said %q", args, out)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != tc.want {
			t.Errorf("%q: file holds %q, %v", args, b, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q: mode %v, %v", args, info.Mode(), err)
		}
		if tc.args[0] == "cluster" && !strings.Contains(out, " --token-file '"+path+"'\n") {
			t.Errorf("the command to run does not name the file: %s", out)
		}
		dir := filepath.Join(u.home, "dir")
		args = append(tc.args, "--token-out", filepath.Join(dir, "t"))
		if r := u.run(t, args...); r.code != exitUsage {
			t.Errorf("%q into no directory: exit %d, %s", args, r.code, r.err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		core.hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
			return false
		}
		if r := u.run(t, args...); r.code == exitOK || strings.Contains(r.out+r.err, strings.TrimSpace(tc.want)) {
			t.Errorf("%q, directory vanished: exit %d, %s%s", args, r.code, r.out, r.err)
		}
		if sent := core.seen(); sent[len(sent)-1] != tc.undo {
			t.Errorf("%q, directory vanished: sent %q last", args, sent[len(sent)-1])
		}
		core.hook = nil
	}
}

func TestInvite(t *testing.T) {
	core := newFleet()
	u := at(t, core.serve(t))
	core.cluster.Nodes[0].Leader = false // an election goes on: any voter will do
	core.cluster.Nodes = core.cluster.Nodes[1:]
	if out := u.must(t, "cluster", "invite"); !strings.Contains(out, " --name core-1 ") || !strings.Contains(out, " --join 10.0.0.2:8444 ") {
		t.Errorf("without a leader: %s", out)
	}
	core.cluster.Nodes = core.cluster.Nodes[1:]
	sent := len(core.seen())
	if r := u.run(t, "cluster", "invite"); r.code != exitUnavailable || len(core.seen()) != sent+1 {
		t.Errorf("without a node to join through: exit %d, %s, sent %q", r.code, r.err, core.seen()[sent:])
	}
	for word, want := range map[string]string{"core-4": "core-4", "": "''", "a b": "'a b'", "$(x)": "'$(x)'", "it's": `'it'\''s'`, "[::1]:1": "'[::1]:1'"} {
		if got := shellWord(word); got != want {
			t.Errorf("shellWord(%q) = %s, want %s", word, got, want)
		}
	}
}
