package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A trail is a core's authority, and a witness that runs.
type trail struct {
	t    *testing.T
	dir  string
	key  ed25519.PrivateKey
	w    *Witness
	log  bytes.Buffer
	stop func()
}

// world runs f in a bubble with a witness that runs.
func world(t *testing.T, f func(t *testing.T, tr *trail)) {
	synctest.Test(t, func(t *testing.T) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := &trail{t: t, dir: t.TempDir(), key: key}
		tr.start()
		defer func() { tr.stop() }()
		f(t, tr)
	})
}

// start runs a witness over the trail's directory.
func (tr *trail) start() {
	tr.w = New(Config{
		Dir: tr.dir, Fleet: "acme", Authority: tr.key.Public().(ed25519.PublicKey), Wall: time.Now, Log: slog.New(slog.NewTextHandler(&tr.log, nil)),
	})
	ctx, cancel := context.WithCancel(tr.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { tr.w.Run(ctx) })
	tr.stop = func() { cancel(); wg.Wait() }
	synctest.Wait()
}

func (tr *trail) restart() {
	tr.stop()
	tr.start()
}

// head is a sealed head; hash stands for the history behind it.
func (tr *trail) head(epoch, seq uint64, hash byte) []byte {
	tr.t.Helper()
	return tr.seal(&seal.AuditHead{
		Version: 1, Fleet: "acme", ClusterEpoch: epoch, Seq: seq, Hash: [32]byte{hash, byte(seq)}, LogTimeMS: time.Now().UnixMilli(),
	}, tr.key)
}

func (tr *trail) seal(h *seal.AuditHead, key ed25519.PrivateKey) []byte {
	tr.t.Helper()
	b, err := seal.SealAuditHead(h, key)
	if err != nil {
		tr.t.Fatal(err)
	}
	return b
}

func (tr *trail) take(sealed []byte) {
	tr.w.Take(sealed, "core-1:7400")
	synctest.Wait()
}

// takeLater is take when the next head may be kept.
func (tr *trail) takeLater(sealed []byte) {
	pass(keepEvery)
	tr.take(sealed)
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// lines reads a file of JSON lines; none: it is not there.
func lines[L any](t *testing.T, path string) []L {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []L
	for _, raw := range bytes.SplitAfter(b, []byte("\n")) {
		if len(raw) == 0 {
			continue
		}
		var l L
		if err := json.Unmarshal(raw, &l); err != nil {
			t.Fatalf("%s: %q: %v", path, raw, err)
		}
		out = append(out, l)
	}
	return out
}

// wantKept checks what the file holds, as epoch:seq.
func (tr *trail) wantKept(want ...string) {
	tr.t.Helper()
	var got []string
	for _, l := range lines[Line](tr.t, Path(tr.dir)) {
		got = append(got, fmt.Sprintf("%d:%d", l.ClusterEpoch, l.Seq))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		tr.t.Errorf("kept %q, want %q", got, want)
	}
}

// wantAlarms checks the reasons of the alarms kept and the number raised.
func (tr *trail) wantAlarms(raised uint64, want ...Reason) []Alarm {
	tr.t.Helper()
	got := lines[Alarm](tr.t, filepath.Join(tr.dir, alarmFile))
	var reasons []Reason
	for _, a := range got {
		reasons = append(reasons, a.Reason)
	}
	if fmt.Sprint(reasons) != fmt.Sprint(want) || tr.w.Alarms() != raised {
		tr.t.Errorf("alarms %v, %d raised, want %v, %d", reasons, tr.w.Alarms(), want, raised)
	}
	if says := strings.Contains(tr.log.String(), "level=ERROR msg=\"witness: ALARM"); says != (raised > 0) {
		tr.t.Errorf("the log names an alarm: %v, want %v: %s", says, raised > 0, tr.log.String())
	}
	return got
}

func TestHeadsAreKept(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		first := tr.head(1, 7, 1)
		tr.take(first)
		tr.wantKept("1:7") // the first one at once
		at := time.Now().UTC()
		tr.takeLater(tr.head(1, 9, 1))
		tr.wantKept("1:7", "1:9")
		l := lines[Line](t, Path(tr.dir))[0]
		if l.Hash != "0107"+strings.Repeat("00", 30) || !l.LogTime.Equal(at) || !bytes.Equal(l.Sealed, first) {
			t.Errorf("line %+v", l)
		}
		if st, err := os.Stat(Path(tr.dir)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
		if tr.w.Seq() != 9 {
			t.Errorf("seq %d", tr.w.Seq())
		}
		tr.wantAlarms(0)
	})
}

// A flood of heads costs one line a minute, the newest, and the last one is not lost.
func TestOneAMinute(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		for seq := range uint64(120) { // one a second
			tr.take(tr.head(1, seq+1, 1))
			pass(time.Second)
		}
		tr.wantKept("1:1", "1:60", "1:120")
		tr.take(tr.head(1, 121, 1))
		tr.wantKept("1:1", "1:60", "1:120")
		pass(keepEvery) // nobody says anything more
		tr.wantKept("1:1", "1:60", "1:120", "1:121")
		tr.take(tr.head(1, 122, 1))
		tr.restart()
		tr.wantKept("1:1", "1:60", "1:120", "1:121", "1:122")
		tr.wantAlarms(0)
	})
}

func TestStaleHeads(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		tr.take(tr.head(2, 50, 1))
		for _, h := range [][]byte{tr.head(2, 49, 1), tr.head(1, 60, 1), tr.head(2, 50, 1)} {
			tr.takeLater(h)
		}
		tr.restart() // what is on the disk counts as what is in memory
		for _, h := range [][]byte{tr.head(2, 49, 1), tr.head(1, 60, 1), tr.head(2, 50, 1)} {
			tr.takeLater(h)
		}
		tr.wantKept("2:50")
		tr.takeLater(tr.head(3, 20, 9)) // a restored core begins a new epoch, with fewer records
		tr.takeLater(tr.head(3, 50, 9)) // and goes on otherwise than the old one
		tr.wantKept("2:50", "3:20", "3:50")
		tr.wantAlarms(0)
	})
}

func TestForgedHeads(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		tr.take(tr.head(1, 5, 1))
		_, other, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		good := seal.AuditHead{Version: 1, Fleet: "acme", ClusterEpoch: 1, Seq: 6, LogTimeMS: time.Now().UnixMilli()}
		foreign, zero, early, late := good, good, good, good
		foreign.Fleet, zero.Seq, early.LogTimeMS, late.LogTimeMS = "other", 0, -1, 1<<60
		flipped := tr.head(1, 6, 1)
		flipped[len(flipped)-1] ^= 1
		forged := [][]byte{
			tr.seal(&good, other), flipped, tr.seal(&foreign, tr.key), tr.seal(&zero, tr.key), tr.seal(&early, tr.key), tr.seal(&late, tr.key),
			[]byte("noise"), []byte(""), make([]byte, 1<<20),
		}
		var want []Reason
		for _, h := range forged {
			tr.takeLater(h)
			want = append(want, ReasonInvalid)
		}
		tr.wantKept("1:5")
		got := tr.wantAlarms(uint64(len(forged)), want...)
		if a := got[0]; !bytes.Equal(a.Sealed, forged[0]) || a.From != "core-1:7400" || a.At.IsZero() || a.Detail == "" {
			t.Errorf("alarm %+v", a)
		}
		if a := got[len(got)-1]; len(a.Sealed) != maxSealed+1 {
			t.Errorf("%d bytes of a huge one are kept", len(a.Sealed))
		}
		tr.takeLater(tr.head(1, 6, 1)) // it goes on
		tr.wantKept("1:5", "1:6")
	})
}

// Two signed heads of the same record with different hashes are proof against the core: of the newest record or of an older
// one, now or after a restart, kept or only seen.
func TestForks(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		five, six := tr.head(1, 5, 1), tr.head(1, 6, 1)
		tr.take(five)
		tr.take(six) // only seen: the minute is not over
		forkOfSix := tr.head(1, 6, 2)
		tr.take(forkOfSix)
		got := tr.wantAlarms(1, ReasonFork)
		if a := got[0]; !bytes.Equal(a.Sealed, forkOfSix) || !bytes.Equal(a.Against, six) || !strings.Contains(a.Detail, "record 6") {
			t.Errorf("alarm %+v", a)
		}
		tr.takeLater(tr.head(1, 9, 1))
		forkOfFive := tr.head(1, 5, 2)
		tr.take(forkOfFive)
		tr.restart()
		again := tr.head(1, 9, 3)
		tr.take(again)
		tr.take(forkOfFive) // the same evidence is kept once, and counted
		got = lines[Alarm](t, filepath.Join(tr.dir, alarmFile))
		if len(got) != 3 || !bytes.Equal(got[1].Sealed, forkOfFive) || !bytes.Equal(got[1].Against, five) || !bytes.Equal(got[2].Sealed, again) {
			t.Errorf("alarms %+v", got)
		}
		tr.wantAlarms(2, ReasonFork, ReasonFork, ReasonFork)
		tr.wantKept("1:5", "1:6", "1:9")
	})
}

// A flood of forgeries fills neither the disk nor the log, and does not hide a fork.
func TestAlarmsAreBounded(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		tr.take(tr.head(1, 5, 1))
		for i := range 10 * maxAlarms {
			tr.take(fmt.Appendf(nil, "forged %d", i))
		}
		tr.take(tr.head(1, 5, 2))
		var want []Reason
		for range maxAlarms {
			want = append(want, ReasonInvalid)
		}
		tr.wantAlarms(10*maxAlarms+1, append(want, ReasonFork)...)
		if n := strings.Count(tr.log.String(), "ALARM"); n > 20 {
			t.Errorf("%d lines in the log", n)
		}
	})
}

// Whatever a power cut or a disk left, what reads stays, and the file can be appended to.
func TestDamagedFile(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		for seq := range uint64(4) {
			tr.takeLater(tr.head(1, seq+1, 1))
		}
		tr.stop()
		whole, err := os.ReadFile(Path(tr.dir))
		if err != nil {
			t.Fatal(err)
		}
		rows := bytes.SplitAfter(whole, []byte("\n"))
		last := len(whole) - len(rows[3])
		for name, tt := range map[string]struct {
			content []byte
			want    []string
		}{
			"torn":                 {whole[:len(whole)-20], []string{"1:1", "1:2", "1:3"}},
			"without its newline":  {whole[:len(whole)-1], []string{"1:1", "1:2", "1:3"}},
			"zeros at the end":     {append(bytes.Clone(whole[:last]), make([]byte, 500)...), []string{"1:1", "1:2", "1:3"}},
			"noise in the middle":  {bytes.Join([][]byte{rows[0], []byte("noise\n"), rows[2], rows[3]}, nil), []string{"1:1", "1:3", "1:4"}},
			"a line twice":         {bytes.Join([][]byte{rows[0], rows[1], rows[1], rows[2]}, nil), []string{"1:1", "1:2", "1:3"}},
			"a line without end":   {append(bytes.Clone(whole), bytes.Repeat([]byte("x"), 3*maxLine)...), []string{"1:1", "1:2", "1:3", "1:4"}},
			"a hash of other size": {bytes.Replace(bytes.Clone(whole), []byte(`"hash":"01`), []byte(`"hash":"`), 1), []string{"1:2", "1:3", "1:4"}},
			"empty":                {nil, nil},
		} {
			if err := os.WriteFile(Path(tr.dir), tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			tr.start()
			tr.take(tr.head(1, 9, 1))
			tr.stop()
			t.Log(name)
			tr.wantKept(append(tt.want, "1:9")...)
			var out bytes.Buffer
			if err := Print(&out, tr.dir, []byte("authority")); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != len(tt.want)+1 {
				t.Errorf("%s: printed %q, %v", name, out.String(), err)
			}
		}
		tr.start()
	})
}

// A disk that fails for a while costs the heads of that while but the newest.
func TestDiskFails(t *testing.T) {
	world(t, func(t *testing.T, tr *trail) {
		tr.take(tr.head(1, 1, 1))
		if err := tr.w.kept.f.Close(); err != nil { // every write fails from now on
			t.Fatal(err)
		}
		tr.takeLater(tr.head(1, 2, 1))
		tr.wantKept("1:1")
		tr.take(tr.head(1, 3, 1))
		pass(keepEvery)
		tr.wantKept("1:1", "1:3")

		tr.stop()
		if err := errors.Join(os.Rename(Path(tr.dir), Path(tr.dir)+".away"), os.Mkdir(Path(tr.dir), 0o700)); err != nil { // nothing can be read
			t.Fatal(err)
		}
		tr.start()
		tr.take(tr.head(1, 3, 7)) // contradicts what cannot be read
		if err := errors.Join(os.Remove(Path(tr.dir)), os.Rename(Path(tr.dir)+".away", Path(tr.dir))); err != nil {
			t.Fatal(err)
		}
		pass(keepEvery)
		tr.wantKept("1:1", "1:3")
		tr.wantAlarms(1, ReasonFork)
		tr.takeLater(tr.head(1, 4, 1))
		tr.wantKept("1:1", "1:3", "1:4")
	})
}

func TestPrintNothing(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	if err := Print(&out, dir, []byte("authority")); !errors.Is(err, ErrNone) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(Path(dir), []byte("noise\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Print(&out, dir, []byte("authority")); !errors.Is(err, ErrNone) || out.Len() != 0 {
		t.Errorf("nothing that reads: %v, %q", err, out.String())
	}
}
