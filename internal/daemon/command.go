package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// The daemons have two or three commands each and run on small devices, so they stand on pflag alone: a command framework
// brings text/template, which keeps the linker from dropping unused methods and costs an agent half a megabyte of memory.

// A Program is a daemon's command line.
type Program struct {
	Name     string
	Long     string // what it is and how it is configured
	Commands []Command
	IsConfig func(error) bool // recognises mistakes of configuration besides ConfigError
	// IsRetired recognises that the program has ended for good; nil: it never does.
	IsRetired func(error) bool
}

// A Command is one thing that a program does.
type Command struct {
	Name     string
	Use      string // the command with its usual flags
	Short    string
	Flags    func(*pflag.FlagSet)
	Required []string // flags that must be given, by flag or environment
	Run      func(context.Context, Env) error
}

// Env is what a command sees of its surroundings.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	Flags    *pflag.FlagSet
}

// EnvPrefix is put before a flag's name, in capitals and with '_' for '-', to make its environment variable.
const EnvPrefix = "HOLDFAST_"

// Main runs the program with the process's arguments, signals and environment, and returns its exit code.
func (p *Program) Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	// quic-go would print a line of its own about the size of UDP buffers; the packaging says what to set where it matters.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		return ExitFailure
	}
	return p.Execute(ctx, os.Args[1:], os.LookupEnv, Env{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

// Execute runs the program and returns its exit code. Flags win over the environment.
func (p *Program) Execute(ctx context.Context, args []string, lookup func(string) (string, bool), env Env) int {
	err := p.execute(ctx, args, lookup, env)
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return ExitOK
	}
	fmt.Fprintf(env.Err, "%s: %v\n", p.Name, err)
	var c *ConfigError
	if errors.As(err, &c) || p.IsConfig != nil && p.IsConfig(err) {
		return ExitConfig
	}
	if p.IsRetired != nil && p.IsRetired(err) {
		return ExitRetired
	}
	return ExitFailure
}

func (p *Program) execute(ctx context.Context, args []string, lookup func(string) (string, bool), env Env) error {
	if len(args) == 0 {
		p.help(env.Err)
		return &ConfigError{errors.New("which command?")}
	}
	switch args[0] {
	case "help", "-h", "--help":
		p.help(env.Out)
		return nil
	case "version", "--version":
		fmt.Fprintf(env.Out, "%s %s\n", p.Name, Version())
		return nil
	}
	i := slices.IndexFunc(p.Commands, func(c Command) bool { return c.Name == args[0] })
	if i < 0 {
		return &ConfigError{fmt.Errorf("no command %q: see %s help", args[0], p.Name)}
	}
	c := &p.Commands[i]
	fs := pflag.NewFlagSet(p.Name+" "+c.Name, pflag.ContinueOnError)
	fs.SetOutput(env.Err)
	fs.SortFlags = false
	c.Flags(fs)
	fs.Usage = func() { p.commandHelp(env.Out, c, fs) }
	if err := c.parse(fs, args[1:], lookup); err != nil {
		return err
	}
	env.Flags = fs
	return c.Run(ctx, env)
}

// parse reads flags and environment. Every mistake is a ConfigError but a cry for help.
func (c *Command) parse(fs *pflag.FlagSet, args []string, lookup func(string) (string, bool)) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return &ConfigError{err}
	}
	if fs.NArg() > 0 {
		return &ConfigError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	if err := fromEnv(fs, lookup); err != nil {
		return err
	}
	for _, name := range c.Required {
		if !fs.Changed(name) {
			return &ConfigError{fmt.Errorf("--%s is required", name)}
		}
	}
	return nil
}

func fromEnv(fs *pflag.FlagSet, lookup func(string) (string, bool)) (err error) {
	fs.VisitAll(func(f *pflag.Flag) {
		name := EnvPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, ok := lookup(name)
		if !ok || f.Changed || err != nil {
			return
		}
		if e := fs.Set(f.Name, v); e != nil {
			err = &ConfigError{fmt.Errorf("environment variable %s: %w", name, e)}
		}
	})
	return err
}

func (p *Program) help(w io.Writer) {
	fmt.Fprintf(w, "%s\n\nUsage:\n", p.Long)
	for _, c := range p.Commands {
		fmt.Fprintf(w, "  %s %s\n        %s\n", p.Name, c.Use, c.Short)
	}
	fmt.Fprintf(w, "  %s help | version\n\nEach command tells its flags with --help.\n", p.Name)
}

func (p *Program) commandHelp(w io.Writer, c *Command, fs *pflag.FlagSet) {
	fmt.Fprintf(w, "%s.\n\nUsage:\n  %s %s\n\nFlags (each can also be set as %sNAME in the environment):\n%s", c.Short, p.Name, c.Use, EnvPrefix, fs.FlagUsages())
}
