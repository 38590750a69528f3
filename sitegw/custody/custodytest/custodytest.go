// Package custodytest gives tests a gateway's custody over a real spool.
package custodytest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
)

// Open opens a keeper over a spool in dir. The spool runs until stop is called, which must be before the test, or its bubble,
// ends.
func Open(t *testing.T, dir string) (k *custody.Keeper, stop func()) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := spool.Open(spool.Config{Dir: dir, Quota: 32 << 20, Wall: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if k, err = custody.Open(custody.Config{Spool: s, Wall: time.Now, Log: log}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return k, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
