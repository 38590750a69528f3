package reconcile

import (
	"crypto/ed25519"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// open makes a reconciler over a directory of slots, each of which is the rig.
func (r *rig) open(dir string) *Reconciler {
	r.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	st, err := devstate.Open(r.t.TempDir(), devstate.Signer{Device: ident.NewDeviceID(), Key: key})
	if err != nil {
		r.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	trusted, err := devstate.OpenPublishers(r.t.TempDir(), "acme", make(ed25519.PublicKey, ed25519.PublicKeySize), log)
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := New(Config{
		Dir: dir, Open: func(string) (Slot, error) { return r, nil }, Orders: devstate.OpenOrders(st, "acme", nil, log), Trusted: trusted, Outbox: r, Log: log,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// A memory that is damaged in both copies is begun anew, with what runs taken for good. One of a newer build is left alone.
func TestDamagedMemory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "slots")
	write := func(slot string, files map[string]string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, slot), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, slot, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("damaged", map[string]string{"state.a": "x", "state.b": "y"})
	write("newer", nil)
	write("No slot", nil)
	b, err := wire.Marshal(Memory{Phase: Repairing + 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := durable.OpenSlots(filepath.Join(dir, "newer", "state")).Save(b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.current = old
	c := r.open(dir)
	if all := c.runners(); len(all) != 1 || all[0].name != "damaged" || all[0].mem.Good.Artifact != old || all[0].mem.Phase != Rest {
		t.Errorf("opened %+v", all)
	}
	if all := c.Installed(); len(all) != 1 || all[0].Artifact != old {
		t.Errorf("installed %+v", all)
	}
	if _, running, _ := c.Beat(); len(running) != len(wire.Digest{}) {
		t.Errorf("a heartbeat tells %x", running)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// What runs and was healthy is taken for good without a restart, and its name becomes known.
func TestTakenForGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.current, r.releases[old] = old, true
		b, err := wire.Marshal(Memory{Good: Named{Artifact: old}})
		if err != nil {
			t.Fatal(err)
		}
		r.memory = b
		r.want(1, old, 0)
		r.run(10 * time.Minute)
		r.stated("applying", "healthy")
		if len(r.activated) > 0 || r.runner.mem.Good.Version != "1" || r.runner.mem.floor("app") != 1 {
			t.Errorf("activated %d times, remembers %+v", len(r.activated), r.runner.mem)
		}
	})
}

// The same alarm is stated once an hour.
func TestAlarms(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		c := r.open(filepath.Join(t.TempDir(), "none"))
		for range 5 {
			c.alarm(alarmOrder, "twice")
			c.alarm(alarmPublishers, "twice")
		}
		if r.alarms != 2 {
			t.Errorf("%d alarms", r.alarms)
		}
		time.Sleep(alarmEvery)
		c.alarm(alarmOrder, "again")
		if r.alarms != 3 {
			t.Errorf("%d alarms an hour later", r.alarms)
		}
	})
}
