package mesh

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

func siteKey(generation uint64, fill byte) *wire.SiteKey {
	return &wire.SiteKey{Generation: generation, Key: bytes.Repeat([]byte{fill}, wire.SiteKeySize)}
}

// The newest generation counts, at once and after a restart; what is older, or no key, changes nothing.
func TestTheNewestKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sitekey")
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	k := OpenKeys(path, log)
	now, changed := k.Now()
	if now != nil {
		t.Fatalf("a key from nowhere: %v", now)
	}
	for _, step := range []struct {
		told, want *wire.SiteKey
	}{
		{siteKey(0, 'a'), siteKey(0, 'a')},
		{siteKey(2, 'c'), siteKey(2, 'c')},
		{siteKey(1, 'b'), siteKey(2, 'c')},
		{&wire.SiteKey{Generation: 3, Key: []byte("short")}, siteKey(2, 'c')},
		{siteKey(2, 'd'), siteKey(2, 'd')}, // the core says so: another authority made it
		{siteKey(2, 'd'), siteKey(2, 'd')},
	} {
		before, watch := k.Now()
		k.Told(step.told)
		now, _ := k.Now()
		again, _ := OpenKeys(path, log).Now()
		if !reflect.DeepEqual(now, step.want) || !reflect.DeepEqual(again, step.want) {
			t.Errorf("told %v of %.1s: has %v, after a restart %v", step.told, step.told.Key, now, again)
		}
		select {
		case <-watch:
			if reflect.DeepEqual(before, now) {
				t.Errorf("told %v: a change that is none", step.told)
			}
		default:
			if !reflect.DeepEqual(before, now) {
				t.Errorf("told %v: nobody hears of it", step.told)
			}
		}
	}
	<-changed
	for _, c := range "abcd" {
		if strings.Contains(out.String(), strings.Repeat(string(c), 4)) {
			t.Errorf("the log has the key:\n%s", out.String())
		}
	}
	if st, err := os.Stat(path + ".a"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestAKeyThatDoesNotReadIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sitekey")
	k := OpenKeys(path, slog.New(slog.DiscardHandler))
	k.Told(siteKey(1, 'a'))
	if err := os.WriteFile(path+".a", []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if now, _ := OpenKeys(path, slog.New(slog.NewTextHandler(&out, nil))).Now(); now != nil || !strings.Contains(out.String(), "site key does not read") {
		t.Errorf("has %v, logged %q", now, out.String())
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := siteKey(7, 'z')
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %x", k, k, k, k, k), fmt.Sprintf("%+v", *k)} {
		if strings.Contains(s, "zz") || strings.Contains(s, "7a7a") || strings.Contains(s, "122") || !strings.Contains(s, "generation 7") {
			t.Errorf("prints as %q", s)
		}
	}
}
