package credential_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// seedOf takes the seed out of the token string, the only place that shows it.
func seedOf(t *testing.T, tok *seal.Token) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(tok.Reveal()[4:])
	if err != nil {
		t.Fatal(err)
	}
	return b[8:40]
}

func TestEnroll(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		c, out, err := w.do()
		w.ok(err)
		if c.ID.String() != out.Identity || c.ID.Role != ident.RoleDevice || out.Site != "berlin" || c.Trust.Pin() != w.fleet.Pin() {
			t.Errorf("enrolled as %v: %+v", c.ID, out)
		}
		if c.KeyID != w.keys[0] || !c.Authority.Equal(w.fleet.Authority.Public()) {
			t.Error("key id or authority differs from the fleet's")
		}
		again, err := credential.Load(w.dir)
		w.ok(err)
		if again.ID != c.ID || again.KeyID != c.KeyID || !again.Key.Equal(c.Key) || !reflect.DeepEqual(again.Certificate().Certificate, c.Certificate().Certificate) {
			t.Error("what was stored is not what was enrolled")
		}
		path, _ := w.keyFile()
		for _, name := range []string{path, filepath.Join(w.dir, "identity.b"), filepath.Join(w.dir, "identity.a")} {
			if info, err := os.Stat(name); err == nil && info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", name, info.Mode())
			}
		}
	})
}

// The key is on the disk before the first packet leaves, and no secret is in any packet or message.
func TestNothingSecretLeaves(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		var packets [][]byte
		w.net.Tap(func(from, _ net.Addr, data []byte) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if info, err := os.Stat(filepath.Join(w.dir, "key.pem")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("a packet leaves before the key is stored: %v", err)
			}
			packets = append(packets, bytes.Clone(data))
		})
		_, _, err := w.do()
		w.ok(err)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(packets) == 0 || len(w.seen) != 1 {
			t.Fatalf("%d packets, %d messages", len(packets), len(w.seen))
		}
		for what, secret := range w.secrets() {
			for _, b := range append(packets, w.seen...) {
				if bytes.Contains(b, secret) {
					t.Errorf("the %s left the device", what)
				}
			}
		}
	})
}

// A reply that was lost, or a process that died, is no reason for another key.
func TestRetryPresentsTheSameKey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		w.lose = true
		if _, _, err := w.do(); err == nil {
			t.Fatal("enrolled without an answer")
		}
		if _, err := credential.Load(w.dir); !errors.Is(err, credential.ErrNone) {
			t.Errorf("after a lost answer: %v, want ErrNone", err)
		}
		w.lose = false
		c, _, err := w.do()
		w.ok(err)
		if len(w.keys) != 2 || w.keys[0] != w.keys[1] || len(w.device) != 1 || c.ID != w.device[w.keys[0]] {
			t.Errorf("keys %v made %d devices", w.keys, len(w.device))
		}
	})
}

func TestRefusal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		e := w.enrollment()
		e.Token = seal.NewToken(w.fleet.Pin()) // one that the core does not know
		_, _, err := credential.Enroll(t.Context(), w.box, w.addr, e)
		var refusal *wire.Error
		if !errors.As(err, &refusal) || refusal.Code != wire.CodeRefused || refusal.RetryAfter() != time.Second {
			t.Errorf("got %v, want the refusal with its delay", err)
		}
	})
}

// Whoever is not of the pinned fleet, or not of the role, hears nothing of the token.
func TestWrongServerHearsNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		twin := identtest.New(t, "plant", time.Now())
		for name, addr := range map[string]net.Addr{
			"root of the same name": w.serve(11, twin, ident.Gateway("plant", "berlin", "a")),
			"core for a gateway":    w.serve(12, w.fleet, ident.Core("plant", "c1")),
			"device":                w.serve(13, w.fleet, ident.Device("plant", ident.NewDeviceID())),
		} {
			if _, _, err := credential.Enroll(t.Context(), w.box, addr.String(), w.enrollment()); !errors.Is(err, ident.ErrUntrusted) {
				t.Errorf("%s: got %v, want ErrUntrusted", name, err)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.seen) > 0 {
			t.Errorf("%d messages reached servers that must get none", len(w.seen))
		}
	})
}

// An answer that does not fit is stored in no part.
func TestAnswersThatAreRefused(t *testing.T) {
	twinAt := func(w *world) *identtest.Fleet { return identtest.New(w.t, "plant", time.Now()) }
	other := ident.Device("plant", ident.NewDeviceID())
	for name, spoil := range map[string]func(*world, *wire.Enrolled){
		"another key": func(w *world, e *wire.Enrolled) {
			id, _ := ident.Parse(e.Identity)
			e.Chain = w.fleet.Chain(id, identtest.Key(w.t).Public(), time.Now())
		},
		"another root": func(w *world, e *wire.Enrolled) { e.Root = twinAt(w).Root.Cert.Raw },
		"all of another root": func(w *world, e *wire.Enrolled) {
			twin := twinAt(w)
			id, _ := ident.Parse(e.Identity)
			e.Root, e.Authority = twin.Root.Cert.Raw, twin.AuthCert
			e.Chain = twin.Chain(id, identtest.Parse(w.t, e.Chain[0])[0].PublicKey, time.Now())
		},
		"another authority": func(w *world, e *wire.Enrolled) { e.Authority = twinAt(w).AuthCert },
		"another identity":  func(_ *world, e *wire.Enrolled) { e.Identity = other.String() },
		"no identity":       func(_ *world, e *wire.Enrolled) { e.Identity = "" },
		"another fleet":     func(_ *world, e *wire.Enrolled) { e.Identity = ident.Device("field", other.Device).String() },
		"no chain":          func(_ *world, e *wire.Enrolled) { e.Chain = nil },
		"leaf alone":        func(_ *world, e *wire.Enrolled) { e.Chain = e.Chain[:1] },
		"no certificate":    func(_ *world, e *wire.Enrolled) { e.Chain[0] = []byte("x") },
		"another role": func(w *world, e *wire.Enrolled) {
			id := ident.Gateway("plant", "berlin", "x")
			e.Identity = id.String()
			e.Chain = w.fleet.Chain(id, identtest.Parse(w.t, e.Chain[0])[0].PublicKey, time.Now())
		},
	} {
		inWorld(t, func(t *testing.T, w *world) {
			t.Helper()
			w.answer = func(e *wire.Enrolled) { spoil(w, e) }
			if _, _, err := w.do(); err == nil {
				t.Errorf("%s: was accepted", name)
			}
			if _, err := credential.Load(w.dir); !errors.Is(err, credential.ErrNone) {
				t.Errorf("%s: something was stored: %v", name, err)
			}
			w.answer = func(*wire.Enrolled) {}
			if _, _, err := w.do(); err != nil {
				t.Errorf("%s: then with a good answer: %v", name, err)
			}
		})
	}
}

func TestEnrolledAlready(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		first, _, err := w.do()
		w.ok(err)
		before := files(t, w.dir)
		sent := 0
		w.net.Tap(func(net.Addr, net.Addr, []byte) { sent++ })
		e := w.enrollment()
		e.Token = seal.NewToken(w.fleet.Pin())
		c, out, err := credential.Enroll(t.Context(), w.box, w.addr, e)
		if err != nil || out != nil || c.ID != first.ID {
			t.Errorf("the same fleet again: %v, %+v, %v", c, out, err)
		}
		e.Kind = seal.KindGateway
		if _, _, err := credential.Enroll(t.Context(), w.box, w.addr, e); !errors.Is(err, credential.ErrEnrolled) {
			t.Errorf("another kind: got %v, want ErrEnrolled", err)
		}
		e = w.enrollment()
		e.Token = seal.NewToken(ident.KeyID{1})
		if _, _, err := credential.Enroll(t.Context(), w.box, w.addr, e); !errors.Is(err, credential.ErrEnrolled) {
			t.Errorf("another fleet: got %v, want ErrEnrolled", err)
		}
		if sent > 0 || !reflect.DeepEqual(before, files(t, w.dir)) {
			t.Errorf("%d packets were sent, or a file changed", sent)
		}
	})
}

// files are the contents of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

// A key that cannot be read is an error for a person, never a reason for another key.
func TestDamagedFilesAreLeftAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		_, _, err := w.do()
		w.ok(err)
		path, key := w.keyFile()
		identity := files(t, w.dir)
		for name, content := range map[string][]byte{
			"empty": {}, "cut": key[:len(key)/2], "no key in it": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
			"another kind": []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n"),
			"too large":    make([]byte, 65<<10),
		} {
			w.ok(os.WriteFile(path, content, 0o600))
			_, err := credential.Load(w.dir)
			if err == nil || name != "too large" && !errors.Is(err, durable.ErrDamaged) {
				t.Errorf("%s: Load: %v, want ErrDamaged", name, err)
			}
			if _, _, err := w.do(); err == nil {
				t.Errorf("%s: enrolled over a damaged key", name)
			}
			if _, got := w.keyFile(); !bytes.Equal(got, content) {
				t.Errorf("%s: the key file was changed", name)
			}
		}
		w.ok(os.WriteFile(path, key, 0o600))
		for name := range identity {
			if name != "key.pem" {
				w.ok(os.WriteFile(filepath.Join(w.dir, name), []byte("x"), 0o600))
			}
		}
		if _, _, err := w.do(); !errors.Is(err, durable.ErrDamaged) {
			t.Errorf("damaged identity: got %v, want ErrDamaged", err)
		}
		if len(w.keys) != 1 {
			t.Errorf("asked %d times, want once", len(w.keys))
		}
	})
}

// A process that died between making its key and enrolling leaves a key alone. When that does not read, nobody makes another.
func TestDamagedKeyWithoutIdentity(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		path := filepath.Join(w.dir, "key.pem")
		w.ok(os.WriteFile(path, []byte("half a key"), 0o600))
		if _, _, err := w.do(); !errors.Is(err, durable.ErrDamaged) {
			t.Errorf("got %v, want ErrDamaged", err)
		}
		if _, got := w.keyFile(); string(got) != "half a key" || len(w.seen) > 0 {
			t.Errorf("the key file was changed, or %d requests were sent", len(w.seen))
		}
	})
}

func TestKeyOfAnotherBox(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		_, _, err := w.do()
		w.ok(err)
		dir := w.dir
		w.dir = t.TempDir()
		_, _, err = w.do()
		w.ok(err)
		_, key := w.keyFile()
		w.ok(os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
		if _, err := credential.Load(dir); !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("a chain for another key was loaded: %v", err)
		}
	})
}
