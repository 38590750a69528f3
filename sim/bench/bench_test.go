package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func TestMain(m *testing.M) {
	floor.ChildMain(roles()...)
	goleak.VerifyTestMain(m)
}

// With so few devices these may be nothing, or be lost in what a process's size varies by.
var noisy = []string{"memory.enrolled", "hostile.silent", "heartbeat.core_cpu", "heartbeat.stalled", "cluster.elections", "wan.packets"}

// The whole run, with real processes, in small. It is the one test here that takes real time.
func TestQuickRun(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "performance.md")
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"-quick", "-out", doc}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	figures := make(map[string]float64)
	verdicts := 0
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		if fields[0] == "met" || fields[0] == "not" {
			verdicts++
			continue
		}
		v, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if v <= 0 && !slices.Contains(noisy, fields[0]) {
			t.Errorf("%s is %v", fields[0], v)
		}
		if !strings.Contains(string(text), "| "+fields[0]+" |") {
			t.Errorf("the document lacks %s", fields[0])
		}
		figures[fields[0]] = v
	}
	for _, name := range []string{
		"memory.floor", "memory.gateway", "hostile.silent", "hostile.fill", "hostile.crumbs", "hostile.trickle", "hostile.deaf",
		"heartbeat.floor_cpu", "heartbeat.gateway_cpu", "registration.floor_rate", "registration.rate", "registration.batch",
		"registration.cpu", "custody.floor_p50", "custody.p50", "artifact.build", "download.floor_rate", "download.rate", "download.memory", "wan.beats", "wan.direct_packets", "drain.floor_rate", "drain.rate", "drain.batch", "drain.gateway_cpu",
		"drain.core_cpu", "drain.beats", "agent.floor", "agent.rss", "cluster.floor_rate", "cluster.gateway.rate", "cluster.follower.rate",
		"cluster.leader.rate", "cluster.follower.leader_cpu", "cluster.follower.entry_cpu", "cluster.follower.other_cpu", "write.floor_p50",
		"write.leader_p50", "write.follower_p50", "heap.enrolled", "heap.later", "heap.restored", "list.leader_p99", "list.follower_p99", "list.write_p50",
	} {
		if _, ok := figures[name]; !ok {
			t.Errorf("%s was not measured", name)
		}
	}
	if want := float64(quickSize().devices); figures["registration.receipts"] != want {
		t.Errorf("%v devices hold a receipt, want %v", figures["registration.receipts"], want)
	}
	quick := quickSize()
	if want := float64(quick.devices); figures["cluster.receipts"] != want {
		t.Errorf("%v devices of the core of three nodes hold a receipt, want %v", figures["cluster.receipts"], want)
	}
	if enrolled, later := figures["heap.enrolled"], figures["heap.later"]; enrolled > later+certBytes {
		t.Errorf("a device takes %v B just enrolled and %v B later: its certificate is kept", enrolled, later)
	}
	if verdicts != 29 {
		t.Errorf("%d verdicts, want 29:\n%s", verdicts, out.String())
	}
	if n := strings.Count(string(text), "### "); n != 17 {
		t.Errorf("the document shows %d profiles, want 17", n)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"help":         {[]string{"-h"}, 0},
		"unknown part": {[]string{"-only", "rollouts"}, exitUsage},
		"part of name": {[]string{"-only", "heart"}, exitUsage},
		"argument":     {[]string{"heartbeat"}, exitUsage},
		"unknown flag": {[]string{"-fast"}, exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs strings.Builder
			if code := run(t.Context(), c.args, &out, &errs); code != c.code || errs.Len() == 0 {
				t.Errorf("exit code %d, want %d; said %q", code, c.code, errs.String())
			}
		})
	}
}

func TestWhereTheDocumentGoes(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"docs/performance.md": nil,
		"x.md":                {"-quick", "-out", "x.md"},
		"y.md":                {"-only", "agent", "-out", "y.md"},
	} {
		if o, err := parse(args, &strings.Builder{}); err != nil || o.out != want {
			t.Errorf("%q: %q, %v, want %q", args, o.out, err, want)
		}
	}
	for _, args := range [][]string{{"-quick"}, {"-only", "agent"}} {
		if o, err := parse(args, &strings.Builder{}); err != nil || o.out != "" {
			t.Errorf("%q writes %q (%v), want nothing: part of a run must not replace the document of a whole one", args, o.out, err)
		}
	}
}

func identity(v float64) float64 { return v }

func TestStatistics(t *testing.T) {
	t.Parallel()
	if m := median([]float64{9, 1, 2}, identity); m != 2 {
		t.Errorf("median of three is %v", m)
	}
	if m := median([]float64{4, 1, 2, 9}, identity); m != 3 {
		t.Errorf("median of four is %v", m)
	}
	if m := median(nil, identity); m != 0 {
		t.Errorf("median of nothing is %v", m)
	}
	if least, most := extremes([]float64{3, 1, 2}, identity); least != 1 || most != 3 {
		t.Errorf("extremes are %v and %v", least, most)
	}
	rounds := []float64{5, 1, 4, 2, 3}
	if q := quieter(rounds, identity); !slices.Equal(q, []float64{1, 2, 3}) {
		t.Errorf("quieter half is %v", q)
	}
	if !slices.Equal(rounds, []float64{5, 1, 4, 2, 3}) {
		t.Errorf("the rounds were reordered: %v", rounds)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var a asked
	if got := a.percentile(0.99); got != 0 {
		t.Errorf("p99 of nothing is %v", got)
	}
	for i := range 200 {
		a.took = append(a.took, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0: 1, 0.5: 101, 0.99: 199, 1: 200} {
		if got := a.percentile(p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
}

// Whose CPU time is whose, with a gateway and without one.
func TestSliceOfACluster(t *testing.T) {
	t.Parallel()
	cpu := func(us ...int) slice {
		s := slice{Done: 10}
		for _, u := range us {
			s.CPU = append(s.CPU, time.Duration(10*u)*time.Microsecond)
		}
		return s
	}
	through := clusterSlice{slice: cpu(1, 2, 40, 50, 60), first: 2, lead: 1, entry: 0}
	if through.gateway() != 2 || through.core() != 150 || through.node(through.lead) != 50 || through.node(through.entry) != 40 || through.other() != 60 {
		t.Errorf("through a gateway: %v, core %v, other %v", through.gateway(), through.core(), through.other())
	}
	alone := clusterSlice{slice: cpu(1, 40, 50, 60), first: 1, lead: 2, entry: 2}
	if alone.core() != 150 || alone.node(alone.lead) != 60 || alone.other() != 40 {
		t.Errorf("alone: core %v, leader %v, other %v", alone.core(), alone.node(alone.lead), alone.other())
	}
}

// The certificates that stand for genuine ones have their size, but for the length of two numbers in the signature.
func TestSizeOfACertificate(t *testing.T) {
	t.Parallel()
	keys := make([]*ecdsa.PrivateKey, 3)
	for i := range keys {
		var err error
		if keys[i], err = ident.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	root, err := ident.NewRoot(fleetName, keys[0], now)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.Issuing(fleetName, ident.RoleDevice, keys[1], now)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(ident.Leaf{ID: ident.Device(fleetName, ident.NewDeviceID()), Public: keys[2].Public(), Now: now})
	if err != nil || len(der) < certBytes-16 || len(der) > certBytes+16 {
		t.Errorf("a certificate has %d bytes (%v), and %d stand for it", len(der), err, certBytes)
	}
	if spki, err := x509.MarshalPKIXPublicKey(keys[2].Public()); err != nil || len(spki) != len(fillSPKI(0)) {
		t.Errorf("a public key has %d bytes (%v), and %d stand for it", len(spki), err, len(fillSPKI(0)))
	}
}

// The floor commits entries of the size of the writes that it is compared with.
func TestSizeOfAWrite(t *testing.T) {
	t.Parallel()
	n, err := writePayload()
	if err != nil || n < entryOverhead+len(writeSite) || n > 256 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// What the world that a measurement needs is made for: parts that share one come one after the other.
func TestWorldsAreOpenedOnce(t *testing.T) {
	t.Parallel()
	s := fullSize()
	var opened []setting
	for _, m := range measurements() {
		want := m.in(&s)
		if len(opened) > 0 && opened[len(opened)-1] == want {
			continue
		}
		if slices.Contains(opened, want) {
			t.Errorf("%s opens a world anew", m.name)
		}
		opened = append(opened, want)
	}
	if len(opened) != 4 || opened[0] != (setting{}) {
		t.Errorf("%d worlds: %+v", len(opened), opened)
	}
}

func TestGatewayTellsItsNode(t *testing.T) {
	t.Parallel()
	m := uplinkNode.FindStringSubmatch(`holdfast_gateway_uplink_node_info{address="127.0.0.1:7444",node="core-2"} 1`)
	if len(m) != 2 || m[1] != "core-2" {
		t.Errorf("found %q", m)
	}
}

func TestSliceIsADifference(t *testing.T) {
	t.Parallel()
	at := time.Unix(100, 0)
	before := reading{counts: counts{Completed: 1000, Failed: 3}, at: at, cpu: []time.Duration{time.Second, 2 * time.Second}}
	after := reading{
		counts: counts{Completed: 3000, Failed: 4, P50: time.Millisecond}, at: at.Add(2 * time.Second),
		cpu: []time.Duration{time.Second, 2*time.Second + 40*time.Millisecond},
	}
	s := after.since(&before)
	if s.Done != 2000 || s.Failed != 1 || s.rate() != 1000 || s.each(1) != 20*time.Microsecond || s.each(0) != 0 || s.P50 != time.Millisecond {
		t.Errorf("%+v: rate %v, each %v and %v", s, s.rate(), s.each(0), s.each(1))
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v   verdict
		met bool
	}{
		{verdict{ratio: 1.5, limit: 1.5}, true},
		{verdict{ratio: 1.51, limit: 1.5}, false},
		{verdict{ratio: 0.6, limit: 0.6, atLeast: true}, true},
		{verdict{ratio: 0.59, limit: 0.6, atLeast: true}, false},
	} {
		if c.v.met() != c.met {
			t.Errorf("%+v: met is %v", c.v, c.v.met())
		}
	}
	v := verdict{name: "n", target: "t", unit: "us", floor: 2, own: 5, ratio: 2.5, limit: 1.5, note: "why"}
	if got, want := v.String(), "not met  n: t: floor 2.00 us, holdfast 5.00 us, ratio 2.50; why"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	v.floor = 0
	if got := v.against(); got != "-" {
		t.Errorf("a target that is a number has the floor %q", got)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0.25: "0.25", 9.613: "9.61", 41.34: "41.3", 141.2: "141", 17236: "17236", -12.34: "-12.3"} {
		if got := number(v); got != want {
			t.Errorf("%v is rendered as %s, want %s", v, got, want)
		}
	}
}

func TestHeadOfAProfile(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	out.WriteString("File: x\nType: cpu\nShowing nodes\n      flat  flat%   sum%        cum   cum%\n")
	for i := range 20 {
		out.WriteString("  1s 1% 1% 1s 1% f" + strconv.Itoa(i) + strings.Repeat("x", 10*i) + "\n")
	}
	lines := head(out.String())
	if len(lines) != topEntries+1 || !strings.HasPrefix(lines[0], "      flat  flat%") || !strings.Contains(lines[topEntries], " f9") {
		t.Fatalf("head is %q", lines)
	}
	if long := clip(strings.Repeat("y", 200)); len(long) != maxLine+len(" ...") {
		t.Errorf("a long line has %d bytes", len(long))
	}
	if lines := head("nothing"); lines != nil {
		t.Errorf("head of nothing is %q", lines)
	}
}

func TestDocument(t *testing.T) {
	t.Parallel()
	b := &bench{size: fullSize()}
	b.verdicts = []verdict{{name: "agent memory", target: "at most 16 MiB", unit: "MiB", own: 9.5, ratio: 0.59, limit: 1, note: "resident"}}
	b.figures = []floor.Figure{{Name: "agent.rss", Value: 9.5, Unit: "MiB", Note: "resident"}}
	b.profiles = []topList{{"CPU of the core", []string{"  flat", "  1s f<go.shape>"}}}
	text, err := b.document(time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), "2 cores")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"written by `make bench`", "Last run: 2026-11-24, on 2 cores.", "2000 devices", "4 messages of 250 statements", "100000 devices in 50 sites", "| agent memory | at most 16 MiB | - | 9.50 MiB | 0.59 | met | resident |\n",
		"| agent.rss | 9.50 | MiB | resident |\n", "### CPU of the core\n\n```\n  flat\n  1s f<go.shape>\n```\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
}
