package tally

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/raftstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A desk takes proposals, encoded and decoded again, as the log does.
type desk struct {
	t    *testing.T
	mu   sync.Mutex
	fail error
	got  []string // guarded by mu: what was taken, with the time since begin
	from time.Time
}

func (d *desk) propose(_ context.Context, c command.Command) (any, error) {
	b, err := command.Encode(c)
	if err != nil {
		d.t.Errorf("encode: %v", err)
	}
	if len(b) > raftstore.MaxCommand/2 {
		d.t.Errorf("a command of %d bytes", len(b))
	}
	if c, err = command.Decode(b); err != nil {
		d.t.Errorf("decode: %v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		d.got = append(d.got, fmt.Sprintf("%v failed", time.Since(d.from)))
		return nil, d.fail
	}
	var items []string
	switch c := c.(type) {
	case *command.Refusals:
		for _, r := range c.Items {
			items = append(items, fmt.Sprintf("%s %s %s %s x%d %d-%d %s", r.Action, r.Actor, r.Source, r.Reason, r.Count, r.FirstMS, r.LastMS, c.Node))
		}
	case *command.OperatorsUsed:
		for _, u := range c.Items {
			items = append(items, fmt.Sprintf("%s %s %d", u.ID, u.Source, u.AtMS))
		}
	}
	d.got = append(d.got, fmt.Sprintf("%v %s", time.Since(d.from), strings.Join(items, ", ")))
	return nil, nil
}

func (d *desk) setFail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// taken empties the list of what was taken.
func (d *desk) taken() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := strings.Join(d.got, "\n")
	d.got = nil
	return out
}

// run starts a book whose clock begins at 1,000 ms with the bubble's. stop ends it.
func run(t *testing.T) (b *Book, d *desk, stop func()) {
	d = &desk{t: t, from: time.Now()}
	wall := func() time.Time { return time.UnixMilli(1000).Add(time.Since(d.from)) }
	b = New(wall, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx, d.propose, "core-1")
	}()
	return b, d, sync.OnceFunc(func() { cancel(); <-done })
}

func expect(t *testing.T, d *desk, want string) {
	t.Helper()
	synctest.Wait()
	if got := d.taken(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Sums are proposed once a minute, and at the end; where there is nothing, nothing is.
func TestSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, stop := run(t)
		defer stop()
		time.Sleep(90 * time.Second)
		expect(t, d, "")
		b.Note("set-site", "operator:op-2", "192.0.2.7", "role")
		b.Used("op-2", "192.0.2.7")
		time.Sleep(time.Second)
		b.Note("set-site", "operator:op-2", "192.0.2.9", "role")
		b.Note("set-site", "operator:op-2", "198.51.100.1", "role")
		b.Note("enroll", "", "plant-7/gw-a", "unknown token")
		b.Note("enroll", "", "plant-7/gw-a", "unknown token")
		b.Used("op-2", "192.0.2.8")
		b.Used("op-1", "2001:db8::1")
		expect(t, d, "")
		time.Sleep(time.Minute)
		expect(t, d, "2m0s set-site operator:op-2 192.0.2.9 role x2 91000-92000 core-1, "+
			"enroll  plant-7/gw-a unknown token x2 92000-92000 core-1, set-site operator:op-2 198.51.100.1 role x1 92000-92000 core-1\n"+
			"2m0s op-1 2001:db8::1 92000, op-2 192.0.2.8 92000")
		time.Sleep(2 * time.Minute)
		expect(t, d, "")
		b.Used("op-1", "192.0.2.1")
		stop()
		expect(t, d, "4m31s op-1 192.0.2.1 272000")
	})
}

// What could not be proposed is kept, with what came in since.
func TestKeptUntilProposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, stop := run(t)
		defer stop()
		d.setFail(errors.New("no leader"))
		b.Note("a", "", "192.0.2.7", "r")
		b.Used("op-1", "192.0.2.7")
		time.Sleep(61 * time.Second)
		expect(t, d, "1m0s failed\n1m0s failed")
		b.Note("a", "", "192.0.2.8", "r")
		b.Used("op-1", "192.0.2.8")
		d.setFail(nil)
		time.Sleep(time.Minute)
		expect(t, d, "2m0s a  192.0.2.8 r x2 1000-62000 core-1\n2m0s op-1 192.0.2.8 62000")
	})
}

// The last proposal does not keep a node from stopping.
func TestTheEndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(time.Now, slog.New(slog.DiscardHandler))
		b.Note("a", "", "s", "r")
		b.Used("op-1", "s")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		b.Run(ctx, func(ctx context.Context, _ command.Command) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "core-1")
		if took := time.Since(begin); took != LastTime {
			t.Errorf("took %v", took)
		}
		if refusals, uses := b.take(); len(refusals) != 1 || len(uses) != 1 {
			t.Errorf("%d sums and %d uses are left", len(refusals), len(uses))
		}
	})
}

// Whoever makes however many different refusals, the book does not grow, and all are counted.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d, stop := run(t)
		defer stop()
		fill := func() {
			for i := range 3 * maxKeys {
				b.Note(strings.Repeat("a", 3*maxText), fmt.Sprintf("operator:op-%d", i), strings.Repeat("s", 3*maxText), strings.Repeat("r", 3*maxText))
				b.Used(fmt.Sprintf("op-%d", i), "s")
			}
		}
		d.setFail(errors.New("no leader"))
		total := uint64(0)
		for range 4 {
			fill()
			time.Sleep(Every)
			synctest.Wait()
			total += 3 * maxKeys
			b.mu.Lock()
			sums, uses, counted := len(b.refusals), len(b.uses), uint64(0)
			for _, r := range b.refusals {
				counted += r.Count
			}
			b.mu.Unlock()
			if sums != maxKeys+1 || uses != maxKeys || counted != total {
				t.Fatalf("%d sums of %d refusals, not %d, and %d uses", sums, counted, total, uses)
			}
		}
		d.setFail(nil)
		d.taken()
		stop()
		if got := d.taken(); strings.Count(got, " core-1") != maxKeys+1 || !strings.Contains(got, "other   other x") {
			t.Errorf("%d sums were proposed", strings.Count(got, " core-1"))
		}
	})
}

// A text that is not fit for a command never gets into one: it would stop every node that reads the log.
func FuzzNote(f *testing.F) {
	f.Add("a\xff\x00b", "operator:\u202eop", "192.0.2.1%\xfe", "\ufffd")
	f.Add(strings.Repeat("ü", maxText), "", "::ffff:192.0.2.1", "fe80::1%eth0")
	f.Fuzz(func(t *testing.T, action, actor, source, reason string) {
		b := New(time.Now, slog.New(slog.DiscardHandler))
		b.Note(action, actor, source, reason)
		b.Used("op-1", source)
		refusals, uses := b.take()
		for _, c := range []command.Command{&command.Refusals{Node: "n", Items: refusals}, &command.OperatorsUsed{Items: uses}} {
			enc, err := command.Encode(c)
			if err != nil {
				t.Fatal(err)
			}
			again, err := command.Decode(enc)
			if err != nil {
				t.Fatal(err)
			}
			back, err := command.Encode(again)
			if err != nil || !bytes.Equal(enc, back) {
				t.Errorf("%v: %x became %x", err, enc, back)
			}
		}
		for _, s := range []string{refusals[0].Action, refusals[0].Actor, refusals[0].Source, refusals[0].Reason} {
			if len(s) > maxText || !utf8.ValidString(s) {
				t.Errorf("%q", s)
			}
		}
	})
}

func TestNetworks(t *testing.T) {
	for source, want := range map[string]string{
		"192.0.2.7": "192.0.2.0/24", "::ffff:192.0.2.7": "192.0.2.0/24", "2001:db8:1:2::3": "2001:db8:1::/48", "fe80::1%eth0": "fe80::/48",
		"plant-7/gw-a": "plant-7/gw-a", "": "",
	} {
		if got := network(source); got != want {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
}

// Whoever notes and whoever proposes may do so at the same time.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, stop := run(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 500 {
					b.Note("a", "", "s", fmt.Sprint(i))
					b.Used("op", "s")
					time.Sleep(time.Second)
				}
			})
		}
		wg.Wait()
		stop()
	})
}
