// Command holdfast is the operators' CLI of a fleet: it reads and changes what the core's API offers.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	stop()
	os.Exit(code)
}
