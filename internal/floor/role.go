package floor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// childVariable is the environment variable that makes a process a child; its value names the role.
const childVariable = "HOLDFAST_FLOOR_CHILD"

// openCommand is the first that a child gets; it carries the role's configuration.
const openCommand = "open"

// ErrUnknownRole says that a child was started in a role that its program does not have.
var ErrUnknownRole = errors.New("unknown role")

// ErrUnknownCommand is what a Service answers to a command that it does not have.
var ErrUnknownCommand = errors.New("unknown command")

// Role is something that a child process can be. The name must not be one of this package's own.
type Role struct {
	Name string
	// Open begins the role's work with the configuration that the parent gave (JSON). The Service is closed when the
	// parent closes the child.
	Open func(ctx context.Context, config json.RawMessage) (Service, error)
}

// Service is a role at work. Its methods are called one at a time.
type Service interface {
	// Do carries out a command and returns an answer that encoding/json can encode, nil for none.
	Do(ctx context.Context, command string) (any, error)
	// Close ends the work and returns when all of its goroutines have ended.
	Close() error
}

// request and response are one line of JSON each, on the child's standard input and output.
type request struct {
	Command string          `json:"command"`
	Config  json.RawMessage `json:"config,omitempty"` // with openCommand only
}

type response struct {
	Answer any    `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"` // for people; empty means success
}

// ChildMain turns this process into the child that its parent asked for and exits, or returns at once if it is no
// child. It must come before anything else in main. Roles of the caller's own may be added to those of this package.
func ChildMain(extra ...Role) {
	name, child := os.LookupEnv(childVariable)
	if !child {
		return
	}
	// What this process starts in turn is no child of this kind.
	if err := os.Unsetenv(childVariable); err != nil {
		fatal(name, err)
	}
	for _, role := range append(ownRoles(), extra...) {
		if role.Name != name {
			continue
		}
		if err := serveRole(context.Background(), role, os.Stdin, os.Stdout); err != nil {
			fatal(name, err)
		}
		os.Exit(0)
	}
	fatal(name, ErrUnknownRole)
}

func ownRoles() []Role {
	return []Role{
		{Name: roleHeartbeatServer, Open: openHeartbeatServer},
		{Name: roleHeartbeatClient, Open: openHeartbeatClient},
		{Name: roleIdleServer, Open: openIdleServer},
		{Name: roleIdleClient, Open: openIdleClient},
		{Name: roleRegistration, Open: openRegistration},
		{Name: roleVerification, Open: openVerification},
	}
}

// fatal ends a child. Its parent collects standard error.
func fatal(role string, err error) {
	fmt.Fprintf(os.Stderr, "child %s: %v\n", role, err)
	os.Exit(1)
}

// serveRole answers requests until the input ends, which is how the parent says goodbye. Errors of the role go to the
// parent; only a broken pipe or a broken shutdown ends it.
func serveRole(ctx context.Context, role Role, in io.Reader, out io.Writer) (err error) {
	requests, responses := json.NewDecoder(in), json.NewEncoder(out)
	var service Service
	defer func() {
		if service != nil {
			err = errors.Join(err, service.Close())
		}
	}()
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		var answer any
		var failure error
		switch {
		case service == nil && r.Command == openCommand:
			service, failure = role.Open(ctx, r.Config)
		case service == nil:
			failure = fmt.Errorf("command %s before %s: %w", r.Command, openCommand, ErrUnknownCommand)
		default:
			answer, failure = service.Do(ctx, r.Command)
		}
		if err := responses.Encode(respond(answer, failure)); err != nil {
			return fmt.Errorf("answer %s: %w", r.Command, err)
		}
	}
}

func respond(answer any, failure error) response {
	if failure != nil {
		return response{Error: failure.Error()}
	}
	return response{Answer: answer}
}

// decodeConfig is the first step of every Open.
func decodeConfig[C any](config json.RawMessage) (C, error) {
	var c C
	if err := json.Unmarshal(config, &c); err != nil {
		return c, fmt.Errorf("decode configuration: %w", err)
	}
	return c, nil
}
