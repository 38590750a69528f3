package install

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A manager stands in for systemd: it speaks D-Bus on a Unix socket, as systemd does to those who connect to it without a bus.
type manager struct {
	t      *testing.T
	result string            // with which jobs end; "": never
	states map[string]string // of units
	before bool              // whether a job ends before its number is told
	mute   bool              // whether it does not answer at all
	refuse string            // name of the error with which a restart is answered; "": none

	mu        sync.Mutex
	restarted []string
	listeners []*busConn
	conns     []net.Conn
	wg        sync.WaitGroup
}

type busConn struct {
	m      *manager
	mu     sync.Mutex
	c      net.Conn
	serial uint32
}

// serve makes the manager listen and returns its address.
func (m *manager) serve(t *testing.T) string {
	t.Helper()
	m.t = t
	path := filepath.Join(t.TempDir(), "bus")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	m.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.conns = append(m.conns, c)
			m.mu.Unlock()
			m.wg.Go(func() { m.talk(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		m.mu.Lock()
		for _, c := range m.conns {
			c.Close()
		}
		m.mu.Unlock()
		m.wg.Wait()
	})
	return "unix:path=" + path
}

// talk serves one connection: the handshake in lines, then messages.
func (m *manager) talk(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	if b, err := r.ReadByte(); err != nil || b != 0 {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if m.mute {
			continue
		}
		switch word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case word == "AUTH" && rest == "":
			c.Write([]byte("REJECTED EXTERNAL\r\n"))
		case word == "AUTH":
			c.Write([]byte("OK 0123456789abcdef0123456789abcdef\r\n"))
		case word == "BEGIN":
			m.messages(&busConn{m: m, c: c}, r)
			return
		default:
			c.Write([]byte("ERROR\r\n"))
		}
	}
}

func (m *manager) messages(c *busConn, r *bufio.Reader) {
	for {
		msg, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		switch member, _ := msg.Headers[dbus.FieldMember].Value().(string); member {
		case "Hello":
			c.reply(msg, ":1.1")
		case "AddMatch":
			c.reply(msg)
		case "Subscribe": // who did not ask is told nothing
			m.mu.Lock()
			m.listeners = append(m.listeners, c)
			m.mu.Unlock()
			c.reply(msg)
		case "RestartUnit":
			m.restart(c, msg)
		case "Get":
			unit := unescape(filepath.Base(string(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))))
			state, ok := m.states[unit]
			if !ok {
				state = "inactive"
			}
			c.reply(msg, dbus.MakeVariant(state))
		default:
			m.t.Errorf("call of %s", member)
		}
	}
}

func (m *manager) restart(c *busConn, msg *dbus.Message) {
	unit := msg.Body[0].(string)
	m.mu.Lock()
	m.restarted = append(m.restarted, unit)
	listeners := m.listeners
	m.mu.Unlock()
	if m.refuse != "" {
		c.send(&dbus.Message{Type: dbus.TypeError, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial()), dbus.FieldErrorName: dbus.MakeVariant(m.refuse),
		}, Body: []any{"no"}})
		return
	}
	job := dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	removed := func() {
		if m.result == "" {
			return
		}
		for _, l := range listeners {
			l.signal("JobRemoved", uint32(6), dbus.ObjectPath("/org/freedesktop/systemd1/job/6"), unit, "failed") // somebody else's
			l.signal("JobRemoved", uint32(7), job, unit, m.result)
		}
	}
	if m.before {
		removed()
	}
	c.reply(msg, job)
	if !m.before {
		removed()
	}
}

func (c *busConn) reply(to *dbus.Message, body ...any) {
	c.send(&dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(to.Serial())}, Body: body})
}

func (c *busConn) signal(member string, body ...any) {
	c.send(&dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
		dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
		dbus.FieldMember:    dbus.MakeVariant(member),
		dbus.FieldSender:    dbus.MakeVariant("org.freedesktop.systemd1"),
	}, Body: body})
}

// send writes a message. Its serial can only be set where it is encoded.
func (c *busConn) send(msg *dbus.Message) {
	if len(msg.Body) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(msg.Body...))
	}
	var b strings.Builder
	if err := msg.EncodeTo(&b, binary.LittleEndian); err != nil {
		c.m.t.Error(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	raw := []byte(b.String())
	binary.LittleEndian.PutUint32(raw[8:], c.serial)
	c.c.Write(raw) // a client that has gone is no matter
}

// unescape reads a unit's name out of the path of its object.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if b, err := hex.DecodeString(s[min(i+1, len(s)):min(i+3, len(s))]); s[i] == '_' && err == nil && len(b) == 1 {
			out.Write(b)
			i += 2
		} else {
			out.WriteByte(s[i])
		}
	}
	return out.String()
}

func TestActivate(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		m      *manager
		units  []string
		reason string
		says   string // in the error
	}{
		"done":                     {m: &manager{result: "done"}},
		"done before it was begun": {m: &manager{result: "done", before: true}},
		"failed":                   {m: &manager{result: "failed"}, reason: ReasonActivate, says: `"failed"`},
		"dependency":               {m: &manager{result: "dependency"}, reason: ReasonActivate, says: `"dependency"`},
		"never done":               {m: &manager{}, reason: ReasonActivate, says: "longer than"},
		"no answer":                {m: &manager{mute: true}, reason: ReasonActivate, says: "longer than"},
		"not permitted":            {m: &manager{refuse: "org.freedesktop.DBus.Error.AccessDenied"}, reason: ReasonActivate, says: "app.service"},
		"not allowed here":         {m: &manager{result: "done"}, units: []string{"other.service"}, reason: ReasonUnit, says: "agent.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Wrap: fast, Bus: tc.m.serve(t), Units: tc.units, Activate: time.Minute}
			if tc.units == nil {
				o.Units = []string{"app.service"}
			}
			if strings.Contains(tc.says, "longer") {
				o.Activate = 300 * time.Millisecond
			}
			s := openSlot(t, slotDir(t), o)
			err := s.Activate(t.Context(), &artifact.Manifest{Kind: artifact.KindTree, Unit: "app.service"})
			if ReasonOf(err) != tc.reason || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want reason %q and %q", err, tc.reason, tc.says)
			}
			want := 1
			if tc.reason == ReasonUnit || tc.m.mute {
				want = 0
			}
			tc.m.mu.Lock()
			defer tc.m.mu.Unlock()
			if !slices.Equal(tc.m.restarted, []string{"app.service"}[:want]) {
				t.Errorf("restarted: %v", tc.m.restarted)
			}
		})
	}
	t.Run("the agent stops", func(t *testing.T) {
		t.Parallel()
		s := openSlot(t, slotDir(t), Options{Wrap: fast, Bus: (&manager{mute: true}).serve(t), Units: []string{"app.service"}})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := s.Activate(ctx, &artifact.Manifest{Kind: artifact.KindTree, Unit: "app.service"}); err != ctx.Err() { //nolint:errorlint // as it is
			t.Error(err)
		}
	})
	t.Run("no bus", func(t *testing.T) {
		t.Parallel()
		s := openSlot(t, slotDir(t), Options{Wrap: fast, Bus: "unix:path=" + t.TempDir() + "/none", Units: []string{"app.service"}})
		if err := s.Activate(t.Context(), &artifact.Manifest{Kind: artifact.KindTree, Unit: "app.service"}); ReasonOf(err) != ReasonActivate {
			t.Error(err)
		}
		if err := s.Activate(t.Context(), &artifact.Manifest{Kind: artifact.KindFile}); err != nil {
			t.Errorf("without a unit: %v", err)
		}
	})
}

func TestCheckUnit(t *testing.T) {
	t.Parallel()
	m := &manager{states: map[string]string{"app.service": "active", "getty@tty-1.service": "failed"}}
	s := openSlot(t, slotDir(t), Options{Wrap: fast, Bus: m.serve(t)})
	for unit, want := range map[string]string{"app.service": "", "getty@tty-1.service": "unit is failed", "none.service": "unit is inactive"} {
		err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckUnit, Unit: unit})
		if (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", unit, err, want)
		}
	}
}

// checkOne installs a release with one check, runs it and returns why it failed.
func checkOne(ctx context.Context, t *testing.T, s *Slot, c artifact.Check, nodes ...node) error {
	t.Helper()
	v := makeVersion(t, 1, func(m *artifact.Manifest) { m.Health = []artifact.Check{c} }, append(nodes, file("zz", "z"))...)
	v.install(t, s) //nolint:contextcheck // it is the check that may be ended
	err := s.Check(ctx, v.m)
	if err == nil || ctx.Err() != nil {
		return err
	}
	var failed *CheckError
	if ReasonOf(err) != ReasonHealth || !errors.As(err, &failed) || failed.Index != 0 || failed.Check.Kind != c.Kind {
		t.Errorf("%v is no failed check", err)
	}
	return err
}
