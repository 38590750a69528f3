package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// verifyLines checks a trail given as a file's content, without the file.
func verifyLines(text []byte, heads []head) (*trail, error) {
	t := newTrail(heads)
	err := eachLine(bytes.NewReader(text), func(i int, line []byte) error {
		if err := t.add(line); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
		return nil
	})
	if err == nil {
		err = t.end()
	}
	return t, err
}

// exportedLines is what this tool exports of the trail.
func exportedLines(t *testing.T, tr auditTrail) []byte {
	t.Helper()
	var b bytes.Buffer
	for l := range bytes.Lines(tr.lines(0)) {
		if err := output.JSON(&b, json.RawMessage(l), true); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestVerifyFindsEveryFlip changes each byte of an exported trail: of all records in the bit that makes capitals and in one other,
// of one record of each kind in every bit, and of those as the core sends them. All are found, and line and record are named.
func TestVerifyFindsEveryFlip(t *testing.T) {
	tr := newAuditTrail(20, nil)
	every := func(int) []byte { return []byte{1, 2, 4, 8, 16, 32, 64, 128} }
	flips := flipEach(t, exportedLines(t, tr), 20, func(i int) []byte { return []byte{32, 1 << (i % 5)} })
	flips += flipEach(t, exportedLines(t, tr), 4, every)
	flips += flipEach(t, tr.lines(0), 4, func(i int) []byte { return []byte{32, 1 << (i % 5)} })
	t.Logf("%d flips, all found", flips)
}

// flipEach flips bits of each byte of the first n records of a trail and returns how many there were. A flip is looked for from
// its own line on: what is before that line it cannot change.
func flipEach(t *testing.T, text []byte, n int, bits func(i int) []byte) (flips int) {
	t.Helper()
	if got, err := verifyLines(text, nil); err != nil || got.first != 1 || got.last != 20 {
		t.Fatalf("the trail as it is: %d to %d, %v", got.first, got.last, err)
	}
	sound := newTrail(nil)
	for record := 1; record <= n; record++ {
		end := bytes.IndexByte(text, '\n')
		for i := 0; i <= end; i++ {
			was := text[i]
			for _, bit := range bits(i) {
				text[i] = was ^ bit
				flipped := *sound
				err := eachLine(bytes.NewReader(text), func(i int, line []byte) error {
					if err := flipped.add(line); err != nil {
						return fmt.Errorf("line %d: %w", record-1+i, err)
					}
					return nil
				})
				flips++
				last := i == end && record == 20 // the file then ends within its only line
				if want := fmt.Sprintf("line %d: record %d: ", record, record); !errors.Is(err, errTrail) || !last && !strings.HasPrefix(err.Error(), want) {
					t.Fatalf("byte %d of record %d, %q made %q: %v", i, record, was, text[i], err)
				}
			}
			text[i] = was
		}
		if err := sound.add(text[:end]); err != nil {
			t.Fatal(err)
		}
		text = text[end+1:]
	}
	return flips
}

// TestVerifyFindsChangesOfRecords takes whole records out, moves them, and makes them anew.
func TestVerifyFindsChangesOfRecords(t *testing.T) {
	tr := newAuditTrail(10, nil)
	other := newAuditTrail(10, func(r *registry.AuditRecord) { r.Source = "203.0.113.1" })
	lines := slices.Collect(bytes.Lines(tr.lines(0)))
	late := newAuditTrail(10, func(r *registry.AuditRecord) {
		if r.Seq == 1 {
			r.Prev[0] = 1
		}
	})
	for name, tc := range map[string]struct {
		lines [][]byte
		want  string
	}{
		"one is missing":        {slices.Concat(lines[:4], lines[5:]), "line 5: record 5: is missing: record 6 is in its place"},
		"one is there twice":    {slices.Concat(lines[:4], lines[3:]), "line 5: record 5: is missing: record 4 is in its place"},
		"two are exchanged":     {slices.Concat(lines[:4], lines[5:6], lines[4:5], lines[6:]), "line 5: record 5: is missing"},
		"one was made anew":     {slices.Concat(lines[:4], slices.Collect(bytes.Lines(other.lines(4)))[:1], lines[5:]), "line 5: record 5: does not follow record 4"},
		"all but one made anew": {slices.Concat(lines[:1], slices.Collect(bytes.Lines(other.lines(1)))), "line 2: record 2: does not follow record 1"},
		"something before it":   {slices.Collect(bytes.Lines(late.lines(0))), "line 1: record 1: is the first and yet names one before it"},
		"an empty line":         {slices.Concat(lines[:4], [][]byte{[]byte("\n")}, lines[4:]), "line 5: record 5: is no record"},
		"a field twice":         {[][]byte{bytes.Replace(lines[0], []byte(`{`), []byte(`{"seq":1,`), 1)}, `line 1: record 1: is no record: the field "seq" is there twice`},
		"a field in capitals":   {[][]byte{bytes.Replace(lines[0], []byte(`{`), []byte(`{"Actor":"core",`), 1)}, `line 1: record 1: has a field "Actor", which some read as actor`},
		"a field too many":      {[][]byte{lines[0], lines[1], bytes.Replace(lines[2], []byte(`{`), []byte(`{"target":"x",`), 1)}, `line 3: record 3: field target is shown as "x", and was recorded as nothing`},
	} {
		_, err := verifyLines(slices.Concat(tc.lines...), nil)
		if !errors.Is(err, errTrail) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
	// What a later core shows besides is no flaw.
	if _, err := verifyLines(bytes.Replace(lines[0], []byte(`{`), []byte(`{"severity":"low",`), 1), nil); err != nil {
		t.Errorf("a field that this build does not know: %v", err)
	}
	// A part of a trail holds in itself.
	if got, err := verifyLines(tr.lines(6), nil); err != nil || got.first != 7 || got.last != 10 {
		t.Errorf("records 7 to 10: %d to %d, %v", got.first, got.last, err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(newAuditTrail(4, nil).lines(0))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := verifyLines(text, nil)
		if err != nil && !errors.Is(err, errTrail) {
			t.Errorf("%v", err)
		}
		if err == nil && got.last > 0 && got.last-got.first+1 != uint64(bytes.Count(text, []byte("\n"))) {
			t.Errorf("%d lines are records %d to %d", bytes.Count(text, []byte("\n")), got.first, got.last)
		}
	})
}

// evidence is a user with a trail of 20 records in a file, and the CA of the fleet whose authority signs.
func evidence(t *testing.T) (*user, auditTrail, *identtest.Fleet) {
	t.Helper()
	f := acme(t)
	u := newUser(t)
	u.env["HOLDFAST_CA_FILE"] = u.write(t, "ca.pem", rootPEM(f))
	return u, newAuditTrail(20, nil), f
}

// TestVerifyWitness holds trails against what gateways have kept.
func TestVerifyWitness(t *testing.T) {
	u, tr, f := evidence(t)
	// Whoever holds the core's disks makes records 13 and on anew, so that the trail holds in itself.
	rewritten := newAuditTrail(20, func(r *registry.AuditRecord) {
		if r.Seq >= 13 {
			r.Actor = "operator:op-9"
		}
	})
	file := func(name string, text []byte) string { return u.write(t, name, string(text)) }
	good, cut, forged := file("good", tr.lines(0)), file("cut", tr[:15].lines(0)), file("rewritten", rewritten.lines(0))
	part := file("part", tr.lines(10))
	some, other := u.write(t, "some.witness", tr.witness(f, 3, 12, 17, 20)), u.write(t, "other.witness", tr.witness(f, 1, 10))
	for _, tc := range []struct {
		name      string
		file      string
		witnesses []string
		code      int
		want      string
	}{
		{"no witness", good, nil, 0, "20 records verified, head "},
		{"one agrees", good, []string{some}, 0, "; 4 heads of witnesses agree\n"},
		{"two agree", good, []string{some, other}, 0, "; 6 heads of witnesses agree\n"},
		{"rewritten, no witness", forged, nil, 0, "20 records verified"},
		{"rewritten", forged, []string{some}, 1, "the trail was rewritten at or before record 17 and after record 12: witness " + some + " line 3 has seen the hash "},
		{"rewritten behind the witness", forged, []string{other}, 0, "20 records verified"},
		{"cut", cut, []string{some}, 1, "the trail was cut: witness " + some + " line 4 has seen record 20, and the trail ends with record 15"},
		{"cut, no witness", cut, nil, 0, "15 records verified"},
		{"part", part, []string{some}, 0, "10 records verified, head "},
		{"part whose first follows a witness", part, []string{other}, 0, "; 1 heads of witnesses agree; 1 are of earlier records\n"},
		{"part, what is not in it", part, nil, 0, "; what came before record 11 is not in it\n"},
	} {
		args := []string{"audit", "verify", tc.file}
		for _, w := range tc.witnesses {
			args = append(args, "--witness", w)
		}
		r := u.run(t, args...)
		if r.code != tc.code || !strings.Contains(r.out+r.err, tc.want) || (r.code == 0) != (r.err == "") {
			t.Errorf("%s: exit %d, %s%s; want %s", tc.name, r.code, r.out, r.err, tc.want)
		}
	}
	// A part that does not follow what a witness saw before it.
	r := u.run(t, "audit", "verify", file("rewritten part", rewritten.lines(17)), "--witness", some)
	if r.code != exitFailure || !strings.Contains(r.err, "rewritten at or before record 17: ") {
		t.Errorf("part of a rewritten trail: exit %d, %s", r.code, r.err)
	}
}

// TestVerifyRefusesForgedWitness has heads that the fleet's authority never signed, or that say something else than it did.
func TestVerifyRefusesForgedWitness(t *testing.T) {
	u, tr, f := evidence(t)
	twin, foreign := identtest.New(t, "acme", fakeNow), identtest.New(t, "other", fakeNow)
	h := tr.head(f, 17)
	good := sealed(f, h)
	changed := func(change func(h *seal.AuditHead)) *seal.AuditHead {
		c := *h
		change(&c)
		return &c
	}
	bent := slices.Clone(good)
	bent[len(bent)/2] ^= 1
	asOther := changed(func(h *seal.AuditHead) { h.Fleet = "other" })
	path := u.write(t, "trail", string(tr.lines(0)))
	for name, tc := range map[string]struct {
		text string
		code int
		want string
	}{
		"signed by another authority":           {line(h, sealed(twin, h), f.AuthCert), 1, "witness line 1: holdfast/audit-head/v1: signature does not verify"},
		"authority of a root of the same name":  {line(h, sealed(twin, h), twin.AuthCert), 1, "line 1: authority: certificate not trusted"},
		"authority of another fleet":            {line(h, sealed(foreign, h), foreign.AuthCert), 1, "certificate not trusted"},
		"head of another fleet":                 {line(asOther, sealed(f, asOther), f.AuthCert), 1, `head of fleet "other", signed by the authority of "acme"`},
		"a device's certificate as authority":   {line(h, good, f.Issuing["device"].Cert.Raw), 1, "certificate not trusted"},
		"no certificate":                        {line(h, good, []byte("x")), 1, "the authority's certificate: certificate not trusted"},
		"a flipped bit":                         {line(h, bent, f.AuthCert), 1, "line 1: "},
		"nothing sealed":                        {line(h, nil, f.AuthCert), 1, "line 1: "},
		"another number shown":                  {line(changed(func(h *seal.AuditHead) { h.Seq = 3 }), good, f.AuthCert), 1, "shows another head than the authority signed: record 17"},
		"another hash shown":                    {line(changed(func(h *seal.AuditHead) { h.Hash[0] ^= 1 }), good, f.AuthCert), 1, "shows another head"},
		"another epoch shown":                   {line(changed(func(h *seal.AuditHead) { h.ClusterEpoch = 2 }), good, f.AuthCert), 1, "shows another head"},
		"the second line is forged":             {tr.witness(f, 3) + line(h, sealed(twin, h), nil), 1, "line 2: holdfast/audit-head/v1: signature does not verify"},
		"no JSON":                               {"17 abc\n", 1, "line 1 is no head of a trail"},
		"cut":                                   {strings.TrimSuffix(tr.witness(f, 3, 17), "\n"), 1, "line 2 is cut"},
		"empty":                                 {"", 2, "holds no head"},
		"no authority anywhere":                 {line(h, good, nil), 2, "nothing tells the authority's certificate: give it with --authority"},
		"a true head of a trail that was other": {line(changed(func(h *seal.AuditHead) { h.Hash[0] ^= 1 }), sealed(f, changed(func(h *seal.AuditHead) { h.Hash[0] ^= 1 })), f.AuthCert), 1, "rewritten at or before record 17"},
	} {
		r := u.run(t, "audit", "verify", path, "--witness", u.write(t, "witness", tc.text))
		if r.code != tc.code || r.out != "" || !strings.Contains(r.err, tc.want) {
			t.Errorf("%s: exit %d, %s%s; want %s", name, r.code, r.out, r.err, tc.want)
		}
	}
	// The operator's certificate of the authority wins over what comes with the witness, and does without it.
	bare := u.write(t, "bare", line(h, good, nil))
	der := u.write(t, "authority.der", string(f.AuthCert))
	if out := u.must(t, "audit", "verify", path, "--witness", bare, "--authority", der); !strings.Contains(out, "1 heads of witnesses agree") {
		t.Errorf("with --authority: %s", out)
	}
	wrong := u.write(t, "wrong.der", string(twin.AuthCert))
	if r := u.run(t, "audit", "verify", path, "--witness", u.write(t, "w", tr.witness(f, 3)), "--authority", wrong); r.code != exitFailure {
		t.Errorf("with another authority: exit %d, %s", r.code, r.err)
	}
	for _, args := range [][]string{
		{"--witness", bare, "--authority", path}, {"--witness", bare, "--authority", u.home + "/none"}, {"--witness", u.home + "/none"},
	} {
		if r := u.run(t, append([]string{"audit", "verify", path}, args...)...); r.code != exitUsage {
			t.Errorf("%q: exit %d, %s", args, r.code, r.err)
		}
	}
}

func TestVerifyFiles(t *testing.T) {
	u, tr, _ := evidence(t)
	delete(u.env, "HOLDFAST_CA_FILE") // a trail alone needs nothing else
	u.stdin = string(tr.lines(0))
	if out := u.must(t, "audit", "verify", "-", "-o", "json"); !strings.Contains(out, `"records": 20`) || !strings.Contains(out, tr.shown(19)[0].Hash) {
		t.Errorf("from standard input: %s", out)
	}
	for text, want := range map[string]string{
		"":                                "holds no record",
		"x\n":                             "record 1: is no record",
		string(tr.lines(0)[:9000]):        "is cut",
		strings.Repeat("x", maxAuditLine): "is over",
	} {
		r := u.run(t, "audit", "verify", u.write(t, "trail", text))
		if r.code != exitFailure || !strings.Contains(r.err, want) {
			t.Errorf("%.20q: exit %d, %s; want %s", text, r.code, r.err, want)
		}
	}
	if r := u.run(t, "audit", "verify", u.home+"/none"); r.code != exitUsage {
		t.Errorf("no file: exit %d, %s", r.code, r.err)
	}
}

// TestVerifyCore verifies the trail of a core that tells the truth, and of cores that do not.
func TestVerifyCore(t *testing.T) {
	f := acme(t)
	core := newFleet()
	core.authority, core.audit = f, newAuditTrail(9, nil)
	srv := core.serve(t)
	u := at(t, srv)
	u.env["HOLDFAST_CA_FILE"] = u.write(t, "both.pem", caOf(srv)+rootPEM(f))
	want := "9 records verified, head " + core.audit.shown(8)[0].Hash + " after record 9, signed by the authority\n"
	if r := u.run(t, "audit", "verify"); r.out != want || r.err != "" {
		t.Errorf("said %q%q, want %q", r.out, r.err, want)
	}
	w := u.write(t, "w", core.audit.witness(f, 4, 9))
	if out := u.must(t, "audit", "verify", "--witness", w); !strings.Contains(out, "2 heads of witnesses agree") {
		t.Errorf("with a witness: %s", out)
	}
	serveHead := func(own coreHead) {
		core.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v1/audit/head" {
				return false
			}
			answer(w, 200, own)
			return true
		}
	}
	truth := func(n int, by *identtest.Fleet) coreHead {
		return coreHead{AuditHead: v1.AuditHead{
			Seq: uint64(n), Hash: core.audit.shown(n - 1)[0].Hash, Sealed: base64Of(sealed(by, core.audit.head(by, n))),
		}, Authority: f.AuthCert}
	}
	twin := identtest.New(t, "acme", fakeNow)
	other := truth(9, f)
	other.Hash = core.audit.shown(7)[0].Hash
	garbled := truth(9, f)
	garbled.Hash = "x"
	unsealed := truth(9, f)
	unsealed.Sealed = "!"
	for name, tc := range map[string]struct {
		head coreHead
		trim int // records that the list lacks at its end
		want string
	}{
		"head signed by somebody else": {truth(9, twin), 0, "the core's head: holdfast/audit-head/v1: signature does not verify"},
		"another head than was signed": {other, 0, "the core shows the head"},
		"no hash":                      {garbled, 0, "the answer is not one of a core"},
		"not sealed":                   {unsealed, 0, "the answer is not one of a core"},
		"fewer records than the head":  {truth(9, f), 2, "the trail was cut: the core's own head has seen record 9, and the trail ends with record 7"},
	} {
		serveHead(tc.head)
		full := core.audit
		core.audit = full[:len(full)-tc.trim]
		if r := u.run(t, "audit", "verify"); r.code != exitFailure || !strings.Contains(r.err, tc.want) {
			t.Errorf("%s: exit %d, %s; want %s", name, r.code, r.err, tc.want)
		}
		core.audit = full
	}
	// Records that come while the trail is read are verified too.
	serveHead(truth(7, f))
	if out := u.must(t, "audit", "verify"); !strings.HasPrefix(out, "9 records verified") {
		t.Errorf("a trail that grows: %s", out)
	}
	// What the list shows is held against what was recorded.
	lie := core.audit.shown(0)
	lie[4].Actor = "core"
	core.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/audit" {
			return false
		}
		answer(w, 200, v1.List[v1.AuditRecord]{Items: lie})
		return true
	}
	if r := u.run(t, "audit", "verify"); r.code != exitFailure || !strings.Contains(r.err, `record 5: field actor is shown as "core", and was recorded as "operator:op-1"`) {
		t.Errorf("a core that shows something else: exit %d, %s", r.code, r.err)
	}
	core.hook, core.audit = nil, core.audit[:0]
	if out := u.must(t, "audit", "verify"); !strings.HasPrefix(out, "0 records verified") {
		t.Errorf("an empty trail: %s", out)
	}
}

// TestExport exports to a file in several runs, over connections that break, and verifies what came of it.
func TestExport(t *testing.T) {
	core := newFleet()
	full := newAuditTrail(20, nil)
	core.audit = full[:8]
	u := over(t, direct{"core-1:1": core}, "core-1:1")
	path := filepath.Join(u.home, "trail.ndjson")
	if out := u.must(t, "audit", "export", "--out", path); out != "exported 8 records, up to 8, to "+path+"\n" {
		t.Errorf("said %q", out)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if out := u.must(t, "audit", "export", "--out", path); out != "exported 0 records, up to 8, to "+path+"\n" {
		t.Errorf("once more: said %q", out)
	}
	// The power went while it wrote, and nothing new has come since.
	u.write(t, "trail.ndjson", string(exportedLines(t, core.audit))+`{"seq":9,"in`)
	u.must(t, "audit", "export", "--out", path)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, exportedLines(t, core.audit)) {
		t.Errorf("a torn line was left, %v", err)
	}
	// The power went while it wrote.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u.write(t, "trail.ndjson", string(b[:len(b)-40]))
	core.audit = full
	left := 3
	core.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/audit/export" || left == 0 {
			return false
		}
		left--
		lines := full.lines(afterOf(r))
		send(w, string(lines[:min(len(lines), 1300)])) // ends within a line
		return true
	}
	synctest.Test(t, func(t *testing.T) {
		if out := u.must(t, "audit", "export", "--out", path, "-o", "json"); !strings.Contains(out, `"records": 13`) || !strings.Contains(out, `"last": 20`) {
			t.Errorf("after a cut: %s", out)
		}
	})
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, exportedLines(t, full)) || left != 0 {
		t.Errorf("the file is not the trail, %v", err)
	}
	if out := u.must(t, "audit", "verify", path); !strings.HasPrefix(out, "20 records verified") {
		t.Errorf("verify: %s", out)
	}
	if r := u.run(t, "audit", "export", "--out", path, "--after", "3"); r.code != exitUsage {
		t.Errorf("--after with a file that goes on: exit %d, %s", r.code, r.err)
	}
	if r := u.run(t, "audit", "export", "--out", u.write(t, "notes", "dear diary\n")); r.code != exitUsage || !strings.Contains(r.err, "line 1 is no record") {
		t.Errorf("a file of something else: exit %d, %s", r.code, r.err)
	}
	if b, err := os.ReadFile(filepath.Join(u.home, "notes")); err != nil || string(b) != "dear diary\n" {
		t.Errorf("a file of something else became %q, %v", b, err)
	}
}

func TestExportFailures(t *testing.T) {
	core := newFleet()
	u := over(t, direct{"core-1:1": core}, "core-1:1")
	full := core.audit
	for name, tc := range map[string]struct {
		text string
		code int
		want string
	}{
		"a record is left out": {string(full[:2].lines(0)) + string(full.lines(3)), 1, "record 4 behind record 2"},
		"no record":            {"{}\n", 1, "it has no number"},
		"always cut":           {`{"seq":`, 3, "cut behind record 0"},
	} {
		core.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v1/audit/export" {
				return false
			}
			send(w, tc.text)
			return true
		}
		synctest.Test(t, func(t *testing.T) {
			if r := u.run(t, "audit", "export"); r.code != tc.code || !strings.Contains(r.err, tc.want) {
				t.Errorf("%s: exit %d, %s; want %s", name, r.code, r.err, tc.want)
			}
		})
	}
}

// What there is already comes at once, however much it is.
func TestTailBatches(t *testing.T) {
	core := newFleet()
	core.audit = newAuditTrail(tailBatch+3, nil)
	u := over(t, direct{"core-1:1": core}, "core-1:1")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), tailEvery/2)
		defer cancel()
		if r := u.runCtx(ctx, "audit", "tail", "-f", "-n", "1000", "-o", "yaml"); r.code != exitOK || strings.Count(r.out, "---\n") != tailBatch+3 {
			t.Errorf("exit %d, %d records, %s", r.code, strings.Count(r.out, "---\n"), r.err)
		}
	})
}

// TestTailFollows reads a trail that grows while it is followed, over an outage, until it is interrupted.
func TestTailFollows(t *testing.T) {
	core := newFleet()
	full := newAuditTrail(9, nil)
	core.audit = full[:4]
	u := over(t, direct{"core-1:1": core}, "core-1:1")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		start := time.Now()
		core.hook = func(w http.ResponseWriter, _ *http.Request) bool {
			switch age := time.Since(start); {
			case age > 2*time.Minute:
				core.audit = full
			case age > time.Minute:
				refuse(w, 503, "no leader")
				return true
			case age > 30*time.Second:
				core.audit = full[:6]
			}
			return false
		}
		r := u.runCtx(ctx, "audit", "tail", "-f", "-n", "2", "-o", "json")
		var seqs []uint64
		for l := range strings.Lines(r.out) {
			n, err := seqOf([]byte(l))
			if err != nil {
				t.Error(err)
			}
			seqs = append(seqs, n)
		}
		if r.code != exitOK || !slices.Equal(seqs, []uint64{3, 4, 5, 6, 7, 8, 9}) {
			t.Errorf("exit %d, records %v, %s", r.code, seqs, r.err)
		}
		if want := "holdfast: the core does not answer (no leader (4 nodes were tried)) and is asked again\n"; r.err != want {
			t.Errorf("noted %q, want %q", r.err, want)
		}
		// A core that stays away is given up.
		start = time.Now().Add(-time.Minute + time.Second)
		core.hook = func(w http.ResponseWriter, _ *http.Request) bool {
			if time.Since(start) < time.Minute+time.Second {
				return false
			}
			refuse(w, 503, "no leader")
			return true
		}
		if r := u.run(t, "audit", "tail", "-f"); r.code != exitUnavailable || !strings.Contains(r.err, "no answer for 5m0s") || !strings.Contains(r.out, "2026-05-01T09:59:00Z  9 ") {
			t.Errorf("exit %d, %s%s", r.code, r.out, r.err)
		}
	})
}
