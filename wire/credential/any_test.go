package credential_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const nobodyThere, gateway = "10.0.0.99:4433", "10.0.0.1:4433"

// What time may heal is tried again, with the patience that was asked for, and always with the same key.
func TestEnrollAnyTriesAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		w.refuse = []*wire.Error{
			wire.Refuse(wire.CodeUnavailable, "no uplink").After(30 * time.Second), wire.Refuse(wire.CodeBusy, "too many").After(time.Minute),
		}
		start := time.Now()
		c, out, err := credential.EnrollAny(t.Context(), w.box, []string{nobodyThere, gateway}, w.enrollment())
		w.ok(err)
		if c.ID.String() != out.Identity || len(w.device) != 1 || len(w.seen) != 3 {
			t.Errorf("%d requests made %d devices", len(w.seen), len(w.device))
		}
		if d := time.Since(start); d < 90*time.Second || d > 3*time.Minute {
			t.Errorf("enrolled after %v, though a minute and a half of patience was asked for", d)
		}
	})
}

// What time does not heal ends it at once.
func TestEnrollAnyGivesUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		t.Helper()
		start := time.Now()
		e := w.enrollment()
		e.Token = seal.NewToken(w.fleet.Pin())
		var refusal *wire.Error
		if _, _, err := credential.EnrollAny(t.Context(), w.box, []string{gateway}, e); !errors.As(err, &refusal) || refusal.Code != wire.CodeRefused {
			t.Errorf("an unknown token: %v", err)
		}
		e.Token = seal.NewToken(ident.KeyID{1})
		if _, _, err := credential.EnrollAny(t.Context(), w.box, []string{gateway}, e); !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("another fleet's token: %v", err)
		}
		if _, _, err := credential.EnrollAny(t.Context(), w.box, nil, e); !errors.Is(err, credential.ErrNone) {
			t.Errorf("no server: %v", err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("gave up after %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start = time.Now()
		if _, _, err := credential.EnrollAny(ctx, w.box, []string{nobodyThere}, e); err == nil || time.Since(start) > 61*time.Second {
			t.Errorf("with nobody there: %v after %v", err, time.Since(start))
		}
		w.lose = true
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := credential.EnrollAny(ctx, w.box, []string{gateway}, w.enrollment()); !errors.Is(err, link.ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with every answer lost: %v", err)
		}
	})
}
