package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/holdfast-edge/holdfast/internal/backoff"
)

// A Check tells whether a daemon does its work: nil, or what it does not do. It ends with its context; one that hangs all the
// same is taken for a failure, and keeps Serve from returning.
type Check func(context.Context) error

const (
	// retryPause is the time between two checks of a daemon that is not ready yet or not well.
	retryPause = 250 * time.Millisecond
	// readyTime bounds a check when no watchdog says how often there must be one.
	readyTime = 5 * time.Second
)

// Serve runs a daemon's work under the service manager, and returns what the work returned: ready once the checks pass, alive
// as often as they pass in time, stopping once ctx or the work ends. A daemon without checks is ready at once, and alive as
// long as its process is.
func Serve(ctx context.Context, run func(context.Context) error, checks ...Check) error {
	period, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the service manager's watchdog period: %w", err)
	}
	m := &manager{checks: checks, period: period}
	if len(checks) == 0 {
		if err := m.tell(sd.SdNotifyReady); err != nil {
			return err
		}
		m.ready = true
	}
	done := make(chan struct{})
	defer func() { <-done }()
	mctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(done)
		m.watch(mctx)
	}()
	return run(ctx)
}

// manager is this daemon as the service manager sees it, see sd_notify(3).
type manager struct {
	checks []Check
	period time.Duration // of the watchdog; 0: none
	ready  bool          // it was told so
	ill    string        // what the newest check said, as it was told; "": it passed
}

// tell sends states in one message; it does nothing without a service manager.
func (m *manager) tell(states ...string) error {
	if _, err := sd.SdNotify(false, strings.Join(states, "\n")); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

// watch keeps the service manager informed until ctx ends, and then says that the daemon stops. What cannot be told the
// manager notices by itself: it hears nothing.
func (m *manager) watch(ctx context.Context) {
	defer m.tell(sd.SdNotifyStopping) //nolint:errcheck // it stops all the same
	for {
		if m.ready && m.period == 0 {
			<-ctx.Done()
			return
		}
		m.look(ctx)
		pause := m.period / 2
		if m.ill != "" || !m.ready {
			pause = retryPause
		}
		if !backoff.Sleep(ctx, pause) {
			return
		}
	}
}

// look makes the checks and tells the outcome.
func (m *manager) look(ctx context.Context) {
	if err := m.check(ctx); err != nil {
		why := "Not well: " + strings.Join(strings.Fields(err.Error()), " ")
		if ctx.Err() == nil && why != m.ill {
			m.ill = why
			m.tell("STATUS=" + why) //nolint:errcheck // see watch
		}
		return
	}
	var states []string
	if !m.ready {
		states = append(states, sd.SdNotifyReady)
	}
	if m.period > 0 {
		states = append(states, sd.SdNotifyWatchdog)
	}
	if m.ill != "" {
		states = append(states, "STATUS=")
	}
	if len(states) == 0 || m.tell(states...) == nil {
		m.ready, m.ill = true, ""
	}
}

func (m *manager) check(ctx context.Context) error {
	limit := readyTime
	if m.period > 0 {
		limit = m.period / 4
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, c := range m.checks {
		if err := c(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}
