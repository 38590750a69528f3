package cli

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// TestExitCodes holds what scripts rely on against what a core can answer.
func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		header string // Retry-After
		sent   int    // how often; 0: until time ran out
		code   int
		line   string // of the error, behind the reason
	}{
		{"bad request", 400, "", 1, 2, "; see 'holdfast devices set --help'"},
		{"invalid", 422, "", 1, 2, "; see 'holdfast devices set --help'"},
		{"unknown token", 401, "", 1, 5, "; run holdfast login with a valid token"},
		{"forbidden", 403, "", 1, 5, "; ask an administrator for a token with the role it takes"},
		{"not found", 404, "", 1, 4, "; see 'holdfast devices list'"},
		{"conflict", 409, "", 1, 6, "; look at the present state and decide again"},
		{"another revision", 412, "", 1, 6, "; look at the present state and decide again"},
		{"busy", 429, "", 1, 3, "; try again in a moment"},
		{"too many", 429, "7", 1, 3, "; try again in 7s"},
		{"no leader", 503, "2", 4, 3, "; try again in 2s"},
		{"no leader for long", 503, "60", 1, 3, "; try again in 1m0s"},
		{"outcome unknown", 504, "", 0, 1, "; read the state before you try again"},
		{"fault", 500, "", 1, 1, "; see the core's log"},
		{"redirect", 302, "", 1, 1, "; see the core's log"},
	} {
		core := newFleet()
		u := over(t, direct{"core-1:1": core}, "core-1:1")
		core.hook = func(w http.ResponseWriter, _ *http.Request) bool {
			if tc.header != "" {
				w.Header().Set("Retry-After", tc.header)
			}
			w.Header().Set("Location", "/elsewhere")
			refuse(w, tc.status, "body.x: is wrong")
			return true
		}
		u.env["HOLDFAST_URL"] = "https://core-1:1"
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := len(core.seen())
				r := u.run(t, "devices", "set", idA, "--heartbeat-interval", "2s")
				if want := "holdfast: devices set: body.x: is wrong" + tc.line + "\n"; r.code != tc.code || r.err != want || r.out != "" {
					t.Errorf("exit %d, want %d\nsaid %q\nwant %q\nout  %q", r.code, tc.code, r.err, want, r.out)
				}
				if n := len(core.seen()) - before; n != tc.sent && tc.sent > 0 || n < 4 && tc.sent == 0 {
					t.Errorf("a change was sent %d times", n)
				}
			})
		})
	}
}

func TestExitCodeUnreachable(t *testing.T) {
	srv := newFleet().serve(t)
	u := at(t, srv)
	other := newFleet().serve(t)
	other.Close()
	r := u.run(t, "cluster", "status", "--url", other.URL)
	if r.code != exitUnavailable || !strings.Contains(r.err, "the core cannot be reached: dial tcp") {
		t.Errorf("closed port: exit %d, %s", r.code, r.err)
	}
	// The certificate is good for 127.0.0.1, not for this name of it.
	r = u.run(t, "cluster", "status", "--url", strings.Replace(srv.URL, "127.0.0.1", "localhost", 1))
	if r.code != exitUnavailable || !strings.Contains(r.err, "not trusted") {
		t.Errorf("wrong name: exit %d, %s", r.code, r.err)
	}
}

func TestExitCodeNotACore(t *testing.T) {
	core := newFleet()
	core.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		send(w, "<html>hello</html>")
		return true
	}
	r := at(t, core.serve(t)).run(t, "cluster", "status")
	if r.code != exitFailure || !strings.Contains(r.err, "check that the address is a core's API") {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
}

// TestUsage checks that a wrong command line is told on one line with the place to look, and that nothing is sent.
func TestUsage(t *testing.T) {
	core := newFleet()
	u := at(t, core.serve(t))
	ca, token := u.env["HOLDFAST_CA_FILE"], u.env["HOLDFAST_TOKEN_FILE"]
	garbage := u.write(t, "garbage", "two words\x00")
	for _, tc := range []struct {
		args []string
		line string
	}{
		{[]string{"devises"}, `no command "devises", did you mean devices?; see 'holdfast --help'`},
		{[]string{"devices"}, "devices: which command? assign, explain, get, history, list, presence, release, retry, set, tag, unassign; see 'holdfast devices --help'"},
		{[]string{"devices", "lst"}, `devices: no command "lst", did you mean list?; see 'holdfast devices --help'`},
		{[]string{"completion", "zz"}, `completion: no command "zz"; see 'holdfast completion --help'`},
		{[]string{"completion", "bash", "x"}, `completion bash: unknown command "x" for "holdfast completion bash"; see 'holdfast completion bash --help'`},
		{[]string{"devices", "list", "x"}, `devices list: unexpected argument "x"; see 'holdfast devices list --help'`},
		{[]string{"devices", "list", "--colour"}, "devices list: unknown flag: --colour; see 'holdfast devices list --help'"},
		{[]string{"devices", "list", "-o", "xml"}, `devices list: invalid argument "xml" for "-o, --output" flag: must be table, json or yaml; see 'holdfast devices list --help'`},
		{[]string{"devices", "list", "--limit", "-1"}, `devices list: invalid argument "-1" for "--limit" flag: must be a non-negative integer; see 'holdfast devices list --help'`},
		{[]string{"devices", "get"}, "devices get: ID is missing; see 'holdfast devices get --help'"},
		{[]string{"devices", "history", idA, "--order", "up"}, `devices history: invalid argument "up" for "--order" flag: must be asc or desc; see 'holdfast devices history --help'`},
		{[]string{"devices", "set", idA}, "devices set: nothing to set: give --heartbeat-interval; see 'holdfast devices set --help'"},
		{[]string{"devices", "set", idA, "--heartbeat-interval", "2"}, `devices set: --heartbeat-interval: "2" is no duration: write such as 2s, 5m or 1h; see 'holdfast devices set --help'`},
		{[]string{"devices", "tag", idA}, "devices tag: KEY=VALUE or KEY- is missing; see 'holdfast devices tag --help'"},
		{[]string{"devices", "tag", idA, "x"}, `devices tag: "x" is neither KEY=VALUE nor KEY- (which removes); see 'holdfast devices tag --help'`},
		{[]string{"devices", "tag", idA, "=x"}, `devices tag: "=x" names no tag; see 'holdfast devices tag --help'`},
		{[]string{"devices", "tag", idA, "x=1", "x-"}, `devices tag: tag "x" is given twice; see 'holdfast devices tag --help'`},
		{[]string{"sites", "set"}, "sites set: NAME is missing; see 'holdfast sites set --help'"},
		{[]string{"sites", "set", "a", "--heartbeat-interval", "soon"}, `sites set: --heartbeat-interval: "soon" is no duration: write such as 2s, 5m or 1h; see 'holdfast sites set --help'`},
		{[]string{"gateways", "revoke", "../x"}, `gateways revoke: gateway "../x": site "..": use 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit: not a fleet identity; see 'holdfast gateways revoke --help'`},
		{[]string{"tokens", "create"}, "tokens create: --kind is missing: device, gateway or core; see 'holdfast tokens create --help'"},
		{[]string{"tokens", "create", "--kind", "device", "--tag", "x"}, `tokens create: --tag: "x" is not KEY=VALUE; see 'holdfast tokens create --help'`},
		{[]string{"tokens", "create", "--kind", "device", "--tag", "x=1", "--tag", "x=2"}, `tokens create: --tag: "x" is given twice; see 'holdfast tokens create --help'`},
		{[]string{"tokens", "create", "--kind", "device", "--ttl", "1d"}, `tokens create: --ttl: "1d" is no duration: write such as 2s, 5m or 1h; see 'holdfast tokens create --help'`},
		{[]string{"tokens", "create", "--kind", "device", "--out", u.home}, "tokens create: --out " + u.home + " is not a plain file; see 'holdfast tokens create --help'"},
		{[]string{"operators", "create"}, "operators create: NAME is missing; see 'holdfast operators create --help'"},
		{[]string{"operators", "create", "x"}, "operators create: --role is missing: viewer, operator or admin; see 'holdfast operators create --help'"},
		{[]string{"operators", "create", "x", "--role", "viewer", "--ttl", "1d"}, `operators create: --ttl: "1d" is no duration: write such as 2s, 5m or 1h; see 'holdfast operators create --help'`},
		{[]string{"operators", "create", "x", "--role", "viewer", "--token-out", u.home}, "operators create: --token-out " + u.home + " is not a plain file; see 'holdfast operators create --help'"},
		{[]string{"operators", "revoke"}, "operators revoke: ID is missing; see 'holdfast operators revoke --help'"},
		{[]string{"audit"}, "audit: which command? export, tail, verify; see 'holdfast audit --help'"},
		{[]string{"audit", "verify", "a", "b"}, "audit verify: accepts at most 1 arg(s), received 2; see 'holdfast audit verify --help'"},
		{[]string{"audit", "tail", "-n", "x"}, `audit tail: invalid argument "x" for "-n, --lines" flag: must be a non-negative integer; see 'holdfast audit tail --help'`},
		{[]string{"audit", "export", "--out", u.home + "/none/x"}, "audit export: --out: open " + u.home + "/none/x: no such file or directory; see 'holdfast audit export --help'"},
		{[]string{"cluster"}, "cluster: which command? invite, remove, snapshot, status, transfer-leadership; see 'holdfast cluster --help'"},
		{[]string{"cluster", "remove"}, "cluster remove: NAME is missing; see 'holdfast cluster remove --help'"},
		{[]string{"cluster", "invite", "--ttl", "soon"}, `cluster invite: --ttl: "soon" is no duration: write such as 2s, 5m or 1h; see 'holdfast cluster invite --help'`},
		{[]string{"devices", "assign", "a", "--slot", "app"}, "devices assign: --artifact is missing; see 'holdfast devices assign --help'"},
		{[]string{"devices", "unassign", "a"}, "devices unassign: --slot is missing; see 'holdfast devices unassign --help'"},
		{[]string{"devices", "retry", "a"}, "devices retry: --slot is missing; see 'holdfast devices retry --help'"},
		{[]string{"artifacts", "delete"}, "artifacts delete: ARTIFACT is missing; see 'holdfast artifacts delete --help'"},
		{[]string{"sites", "set", "a", "--content-rate", "fast"}, `sites set: --content-rate: "fast" is no rate: write such as 500KiB/s, 2MiB/s or none; see 'holdfast sites set --help'`},
		{[]string{"sites", "set", "a", "--content-rate", "0MiB/s"}, `sites set: --content-rate: "0MiB/s" is no rate: write such as 500KiB/s, 2MiB/s or none; see 'holdfast sites set --help'`},
		{[]string{"sites", "set", "a", "--if-revision", "x"}, `sites set: invalid argument "x" for "--if-revision" flag: must be a revision such as 12 or r12; see 'holdfast sites set --help'`},
		{[]string{"login", "https://a", "https://b"}, "login: accepts at most 1 arg(s), received 2; see 'holdfast login --help'"},
		{[]string{"login", "http://127.0.0.1:1"}, `login: "http://127.0.0.1:1" is no core's address; write https://HOST:PORT`},
		{[]string{"cluster", "status", "--url", "127.0.0.1:1"}, `cluster status: "127.0.0.1:1" is no core's address; write https://HOST:PORT`},
		{[]string{"cluster", "status", "--ca-file", token}, "cluster status: CA: no PEM certificate in it; give the core's ca.pem"},
		{[]string{"cluster", "status", "--ca-file", u.home + "/none"}, "cluster status: CA file: open " + u.home + "/none: no such file or directory"},
		{[]string{"cluster", "status", "--token-file", garbage}, "cluster status: " + garbage + " holds no token; one line of printable ASCII is expected"},
		{[]string{"cluster", "status", "--token-file", ca}, "cluster status: " + ca + " holds no token; one line of printable ASCII is expected"},
	} {
		r := u.run(t, tc.args...)
		if r.code != exitUsage || r.err != "holdfast: "+tc.line+"\n" || r.out != "" {
			t.Errorf("holdfast %s: exit %d\nsaid %q\nwant %q\nout  %q", strings.Join(tc.args, " "), r.code, r.err, "holdfast: "+tc.line+"\n", r.out)
		}
	}
	if sent := core.seen(); len(sent) > 0 {
		t.Errorf("a wrong command line sent %q", sent)
	}
}

func TestUsageWithoutContext(t *testing.T) {
	u := newUser(t)
	for args, line := range map[string]string{
		"cluster status":                        "cluster status: no core to talk to; run holdfast login https://HOST:PORT, or give --url or HOLDFAST_URL",
		"login":                                 "login: https://HOST:PORT is missing; see 'holdfast login --help'",
		"login https://127.0.0.1:1":             "login: --ca-file is missing; see 'holdfast login --help'",
		"login https://127.0.0.1:1 --ca-file x": "login: --token-file is missing; see 'holdfast login --help'",
		"login https://127.0.0.1:1 --url https://127.0.0.1:1 --ca-file x": "login: the address is given twice: as an argument and as --url; see 'holdfast login --help'",
	} {
		r := u.run(t, strings.Fields(args)...)
		if r.code != exitUsage || r.err != "holdfast: "+line+"\n" {
			t.Errorf("holdfast %s: exit %d, %q", args, r.code, r.err)
		}
	}
	delete(u.env, "HOME")
	r := u.run(t, "cluster", "status")
	if r.code != exitUsage || !strings.Contains(r.err, "no home directory") {
		t.Errorf("without a home: exit %d, %q", r.code, r.err)
	}
}

// The remedy of a core's refusal names the command, and its words cannot break the line.
func TestErrorIsOneLine(t *testing.T) {
	core := newFleet()
	core.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, 404, "no such\nthing\x1b[31m "+strings.Repeat("long ", 1000))
		return true
	}
	r := at(t, core.serve(t)).run(t, "sites", "get", "x")
	if strings.Count(r.err, "\n") != 1 || strings.ContainsRune(r.err, 0x1b) || len(r.err) > 2*maxErrorText {
		t.Errorf("said %q", r.err)
	}
}
