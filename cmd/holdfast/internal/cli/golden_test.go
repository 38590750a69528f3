package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scenarios is every command, and what of it has a shape of its own.
var scenarios = []struct {
	name string
	args string
}{
	{"devices-list", "devices list"},
	{"devices-list-filtered", "devices list --site plant-7 --presence offline --state quarantined"},
	{"devices-list-limit", "devices list --limit 1"},
	{"devices-list-none", "devices list --site nowhere"},
	{"devices-get", "devices get " + idA},
	{"devices-get-prefix", "devices get 9C0"},
	{"devices-history", "devices history 3fa"},
	{"devices-history-newest", "devices history 3fa --order desc --limit 2"},
	{"devices-presence", "devices presence 3fa"},
	{"devices-tag", "devices tag 3fa line=4 role= commissioning-"},
	{"devices-set", "devices set 3fa --heartbeat-interval 1m30s"},
	{"devices-set-site", "devices set 3fa --heartbeat-interval site"},
	{"devices-assign", "devices assign 3fa --slot app --artifact vision@1.2 --downgrade"},
	{"devices-assign-prefix", "devices assign " + idA + " --slot app --artifact BBB"},
	{"devices-unassign", "devices unassign 3fa --slot app"},
	{"devices-retry", "devices retry 3fa --slot app --if-revision 12"},
	{"devices-explain", "devices explain 3fa"},
	{"artifacts-list", "artifacts list"},
	{"artifacts-get", "artifacts get b"},
	{"artifacts-delete", "artifacts delete vision@1.1"},
	{"publishers-list", "publishers list"},
	{"sites-list", "sites list"},
	{"sites-get", "sites get plant-8"},
	{"sites-set", "sites set plant-9 --heartbeat-interval 2s"},
	{"sites-set-content", "sites set plant-7 --content-rate 2MiB/s --content-window 22:00-05:00"},
	{"sites-set-no-limit", "sites set plant-7 --content-rate none --content-window always --heartbeat-interval 2s"},
	{"gateways-list", "gateways list"},
	{"gateways-list-site", "gateways list --site plant-8"},
	{"gateways-get", "gateways get plant-7/gw-a"},
	{"gateways-get-away", "gateways get plant-7/gw-b"},
	{"gateways-get-forked", "gateways get plant-8/gw-a"},
	{"gateways-revoke", "gateways revoke plant-7/gw-b --reason stolen"},
	{"gateways-revoke-last", "gateways revoke plant-8/gw-a"},
	{"tokens-create", "tokens create --kind device --site plant-7 --ttl 1h --uses 10 --tag line=3 --tag role=eye --comment try"},
	{"tokens-list", "tokens list"},
	{"tokens-get", "tokens get aa"},
	{"tokens-revoke", "tokens revoke ab22"},
	{"cluster-status", "cluster status"},
	{"cluster-invite", "cluster invite --ttl 5m"},
	{"cluster-invite-named", "cluster invite --name berlin --host 2001:db8::4"},
	{"cluster-remove", "cluster remove core-3"},
	{"cluster-remove-none", "cluster remove core-7"},
	{"cluster-snapshot", "cluster snapshot"},
	{"cluster-transfer", "cluster transfer-leadership --to core-2"},
	{"cluster-transfer-any", "cluster transfer-leadership"},
	{"operators-list", "operators list"},
	{"operators-get", "operators get op-2"},
	{"operators-create", "operators create ci --role viewer"},
	{"operators-create-limited", "operators create shift --role operator --site plant-7 --site plant-8 --ttl 24h"},
	{"operators-revoke", "operators revoke op-2b"},
	{"whoami", "whoami"},
	{"audit-tail", "audit tail -n 4"},
	{"audit-tail-none", "audit tail --lines 0"},
	{"audit-export", "audit export --after 3"},
	{"audit-verify", "audit verify"},
	{"events", "events --count 2"},
}

// TestGolden compares, for each command and format, what was sent and what was shown.
func TestGolden(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			var got bytes.Buffer
			for _, format := range []string{"table", "json", "yaml"} {
				core := newFleet()
				u := at(t, core.serve(t))
				r := u.run(t, append(strings.Fields(sc.args), "-o", format)...)
				fmt.Fprintf(&got, "$ holdfast %s -o %s\n", sc.args, format)
				if format == "table" { // what is asked does not depend on the format
					for _, req := range core.seen() {
						fmt.Fprintf(&got, "> %s\n", req)
					}
				}
				fmt.Fprintf(&got, "%s%s[exit %d]\n\n", r.out, r.err, r.code)
			}
			golden(t, sc.name, got.Bytes())
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("output differs from %s; if it is right, run go test -update\n--- got\n%s--- want\n%s", path, got, want)
	}
}

// TestGoldenFiles finds files that no scenario writes any more.
func TestGoldenFiles(t *testing.T) {
	known := map[string]bool{}
	for _, sc := range scenarios {
		known[sc.name+".txt"] = true
	}
	files, err := os.ReadDir(filepath.Join("testdata", "golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[f.Name()] {
			t.Errorf("%s belongs to no scenario", f.Name())
		}
	}
}

// TestHelp pins what the help of the root promises to scripts, and that every command says what it does and takes.
func TestHelp(t *testing.T) {
	u := newUser(t)
	help := u.must(t, "--help")
	for code := exitOK; code <= exitConflict; code++ {
		if !strings.Contains(help, fmt.Sprintf("\n  %d  ", code)) {
			t.Errorf("help does not tell of exit code %d", code)
		}
	}
	for _, sc := range scenarios {
		command, _, _ := strings.Cut(sc.args+" --", " --")
		command = strings.Join(strings.Fields(command)[:min(2, len(strings.Fields(command)))], " ")
		group, _, _ := strings.Cut(command, " ")
		if !strings.Contains(help, "\n  "+group+" ") {
			t.Errorf("help does not name %s", group)
		}
		if text := u.must(t, append(strings.Fields(command), "--help")...); !strings.Contains(text, "holdfast "+command) {
			t.Errorf("help of %s: %s", command, text)
		}
	}
	r := u.run(t)
	if r.code != exitUsage || !strings.HasPrefix(r.err, "holdfast: which command? ") || !strings.Contains(r.err, "devices, events, gateways") {
		t.Errorf("without a command: exit %d, %q", r.code, r.err)
	}
}
