package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// DefaultActivate is how long a unit may take to stop and to start again: systemd's own limits, 90 s each, end it before.
const DefaultActivate = 200 * time.Second

// restart has systemd restart a unit and waits until it has started. Allowed are units that the device's settings name, and no others.
func (s *Slot) restart(ctx context.Context, unit string) error {
	if err := s.o.allows(unit); err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, s.o.Activate, fmt.Errorf("it took longer than %v", s.o.Activate))
	defer cancel()
	result, err := s.job(limited, unit)
	switch {
	case err != nil && ctx.Err() != nil: // the agent stops: that says nothing of the unit
		return ctx.Err()
	case err != nil && limited.Err() != nil: // the library's error is only that its connection is closed
		err = context.Cause(limited)
	case err == nil && result != "done":
		err = fmt.Errorf("the job of systemd ended as %q; journalctl -u %s says why", result, unit)
	}
	if err != nil {
		return fail(ReasonActivate, "restart unit %s: %w", unit, err)
	}
	return nil
}

// job restarts a unit and returns how the job ended.
func (s *Slot) job(ctx context.Context, unit string) (string, error) {
	c, err := s.bus(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.Subscribe(); err != nil { // systemd tells of jobs only those who asked
		return "", err
	}
	done := make(chan string, 1) // the library waits until the result is taken
	if _, err := c.RestartUnitContext(ctx, unit, "replace", done); err != nil {
		return "", err
	}
	select {
	case r := <-done:
		return r, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// active tells how a unit is, as systemd says it: "active", "failed", …
func (s *Slot) active(ctx context.Context, unit string) (string, error) {
	c, err := s.bus(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	p, err := c.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err != nil {
		return "", err
	}
	state, ok := p.Value.Value().(string)
	if !ok {
		return "", fmt.Errorf("ActiveState of unit %s is no text: %v", unit, p.Value)
	}
	return state, nil
}

// bus connects to systemd. The connection ends with ctx.
func (s *Slot) bus(ctx context.Context) (*systemd.Conn, error) {
	var (
		c   *systemd.Conn
		err error
	)
	if s.o.Bus == "" {
		c, err = systemd.NewWithContext(ctx)
	} else {
		c, err = systemd.NewConnection(func() (*dbus.Conn, error) { return dialBus(ctx, s.o.Bus) })
	}
	if err != nil {
		return nil, fmt.Errorf("D-Bus: %w", err)
	}
	return c, nil
}

func dialBus(ctx context.Context, addr string) (*dbus.Conn, error) {
	c, err := dbus.Dial(addr, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.Hello(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
