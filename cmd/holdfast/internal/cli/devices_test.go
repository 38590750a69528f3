package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
)

func TestFindID(t *testing.T) {
	ids := []string{"3fa8", "3fb0", "9c0d", "9c"}
	for given, want := range map[string]string{"3fa": "3fa8", "3FB": "3fb0", "9c0": "9c0d", "9c": "9c", "3fa8": "3fa8"} {
		if got, err := findID("device", given, ids); got != want || err != nil {
			t.Errorf("findID(%q) = %q, %v; want %q", given, got, err, want)
		}
	}
	for given, want := range map[string]error{"": client.ErrNotFound, "7": client.ErrNotFound, "3fa88": client.ErrNotFound, "3f": errAmbiguous} {
		if got, err := findID("device", given, ids); !errors.Is(err, want) {
			t.Errorf("findID(%q) = %q, %v; want %v", given, got, err, want)
		}
	}
}

func TestAmbiguousPrefix(t *testing.T) {
	core := newFleet()
	u := at(t, core.serve(t))
	r := u.run(t, "devices", "get", "3f")
	want := `holdfast: devices get: device "3f": ambiguous: ` + idA + ", " + idB + "; give more of the id\n"
	if r.code != exitUsage || r.err != want {
		t.Errorf("exit %d, said %q, want %q", r.code, r.err, want)
	}
	for i := range 10 {
		core.devices = append(core.devices, v1.Device{ID: fmt.Sprintf("3f%d", i)})
	}
	if r := u.run(t, "devices", "get", "3f"); !strings.Contains(r.err, "3f4 and 7 more;") {
		t.Errorf("many candidates: %q", r.err)
	}
	for args, see := range map[string]string{"devices get 77": "devices", "tokens get 77": "tokens", "events --device 77": "devices"} {
		r := u.run(t, strings.Fields(args)...)
		if r.code != exitNotFound || !strings.HasSuffix(r.err, " \"77\": not found; see 'holdfast "+see+" list'\n") {
			t.Errorf("%s: exit %d, %q", args, r.code, r.err)
		}
	}
	if r := u.run(t, "devices", "get", "00000000-0000-4000-8000-000000000000"); r.code != exitNotFound {
		t.Errorf("no such device: exit %d, %q", r.code, r.err)
	}
}

// hostile is text of a device that a terminal, or a reader of lines, could take for something else.
const hostile = "\x1b]0;owned\a\x1b[2J\r\nfake line\t\u009b31m\u202e\u2028\x00\x7f\U000e0041\u00a0\\n\xff"

// TestInjection looks for unprintable characters in what is shown of a hostile fleet, in every format of every command.
func TestInjection(t *testing.T) {
	core := newFleet()
	d := &core.devices[0]
	d.Profile = v1.Profile{
		Model: new(hostile), OS: new(hostile), Accelerators: []string{hostile}, Unknown: map[string]string{"kernel": hostile},
		Hints: &v1.Hints{Serial: hostile, MACs: []string{hostile}},
	}
	d.AgentVersion, d.Gateway, d.StateReason = hostile, hostile, hostile
	d.Tags = map[string]string{hostile: hostile}
	d.Reported.Slots = []v1.Slot{{Status: v1.Status{Slot: hostile, Artifact: hostile, State: hostile}}}
	d.Keys = []v1.Key{{ID: hostile, State: hostile}}
	core.history[0].Changed = []v1.Change{{Fact: hostile, From: hostile, To: hostile}}
	core.presence[0].Reason = hostile
	core.sites[1].Name = hostile
	core.gateways[2].Name = hostile
	core.gateways[0].Uplink = &v1.Uplink{Node: hostile, Carrier: hostile}
	core.gateways[0].RevokedAt, core.gateways[0].RevokedBy, core.gateways[0].Reason = before(0), hostile, hostile
	core.tokens[0].Comment = hostile
	core.events[0].Data = map[string]string{hostile: hostile}
	for i := range core.cluster.Nodes {
		n := &core.cluster.Nodes[i]
		n.Address, n.API, n.Uplink = hostile, hostile, hostile
	}
	core.cluster.Nodes[0].Name = hostile
	core.operators[1].Name, core.operators[1].LastUsedFrom = hostile, hostile
	core.audit = newAuditTrail(5, func(r *registry.AuditRecord) {
		r.Actor, r.Target, r.Source = strings.ToValidUTF8(hostile, "?"), strings.ToValidUTF8(hostile, "?"), strings.ToValidUTF8(hostile, "?")
	})
	u := at(t, core.serve(t))
	for _, sc := range scenarios {
		for _, format := range []string{"table", "json", "yaml"} {
			r := u.run(t, append(strings.Fields(sc.args), "-o", format)...)
			// The site and a gateway have another name now.
			if r.code != exitOK && sc.name != "sites-get" && sc.name != "gateways-get-forked" && sc.name != "gateways-revoke-last" && sc.name != "cluster-remove-none" {
				t.Errorf("%s: exit %d: %s", sc.name, r.code, r.err)
			}
			if i := strings.IndexFunc(r.out+r.err, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
				t.Errorf("%s -o %s shows %q", sc.name, format, (r.out + r.err)[i:min(i+20, len(r.out+r.err))])
			}
			if format == "table" && strings.Contains(r.out, "\nfake line") {
				t.Errorf("%s: a device made a line of its own:\n%s", sc.name, r.out)
			}
		}
	}
}

func TestComplete(t *testing.T) {
	core := newFleet()
	core.devices[2].Profile.Model = new(hostile)
	u := at(t, core.serve(t))
	for _, tc := range []struct {
		args []string
		want []string // the words, without what they are about
	}{
		{[]string{"devices", "get", ""}, []string{idA, idB, idC}},
		{[]string{"devices", "tag", "3"}, []string{idA, idB, idC}},
		{[]string{"devices", "get", idA, ""}, nil},
		{[]string{"devices", "list", "--site", ""}, []string{"plant-7", "plant-8"}},
		{[]string{"devices", "list", "--state", ""}, []string{"active", "quarantined", "decommissioned"}},
		{[]string{"devices", "history", idA, "--order", ""}, []string{"asc", "desc"}},
		{[]string{"sites", "set", ""}, []string{"plant-7", "plant-8"}},
		{[]string{"tokens", "revoke", ""}, []string{"aa11", "ab22"}},
		{[]string{"events", "--device", ""}, []string{idA, idB, idC}},
		{[]string{"operators", "revoke", ""}, []string{"op-1", "op-2b4c", "op-3d00"}},
		{[]string{"operators", "create", "x", "--role", ""}, []string{"viewer", "operator", "admin"}},
		{[]string{"cluster", "remove", ""}, []string{"core-1", "core-2", "core-3", "core-0"}},
		{[]string{"cluster", "transfer-leadership", "--to", ""}, []string{"core-1", "core-2", "core-3", "core-0"}},
		{[]string{"cluster", "status", "-o", ""}, []string{"table", "json", "yaml"}},
	} {
		out := u.must(t, append([]string{"__complete"}, tc.args...)...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if last := lines[len(lines)-1]; last != ":4" { // cobra's ShellCompDirectiveNoFileComp
			t.Errorf("%q: directive %q, want no files", tc.args, last)
		}
		if strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }) {
			t.Errorf("%q completes to %q", tc.args, out)
		}
		var words []string
		for _, l := range lines[:len(lines)-1] {
			word, _, _ := strings.Cut(l, "\t")
			words = append(words, word)
		}
		if !slices.Equal(words, tc.want) {
			t.Errorf("%q completes to %q, want %q", tc.args, words, tc.want)
		}
	}
}

// Without a core there is nothing to complete with, and nothing in the way of the shell.
func TestCompleteWithoutCore(t *testing.T) {
	u := newUser(t)
	if out := u.must(t, "__complete", "devices", "get", ""); out != ":4\n" {
		t.Errorf("completes to %q", out)
	}
	srv := newFleet().serve(t)
	v := at(t, srv)
	v.env["HOLDFAST_TOKEN_FILE"] = "-"
	v.stdin = goodToken
	if out := v.must(t, "__complete", "devices", "get", ""); out != ":4\n" {
		t.Errorf("took the shell's standard input: completes to %q", out)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := newUser(t).must(t, "completion", shell); !strings.Contains(out, "holdfast") {
			t.Errorf("%s: %d bytes without the program's name", shell, len(out))
		}
	}
}

func TestVersion(t *testing.T) {
	u := newUser(t)
	if out := u.must(t, "version"); !strings.HasPrefix(out, "holdfast ") || strings.Count(out, "\n") != 1 {
		t.Errorf("version says %q", out)
	}
	if out := u.must(t, "version", "-o", "json"); !strings.Contains(out, `"version": `) || !strings.Contains(out, `"go": "go1.`) {
		t.Errorf("version -o json says %q", out)
	}
}
