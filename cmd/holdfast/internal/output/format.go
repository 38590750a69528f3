package output

import (
	"errors"
	"fmt"
	"io"
)

// A Format is how a result is written. It is a pflag.Value.
type Format string

// The formats.
const (
	Table  Format = "table"
	AsJSON Format = "json"
	AsYAML Format = "yaml"
)

// Formats are the names of all formats, for completion.
func Formats() []string { return []string{string(Table), string(AsJSON), string(AsYAML)} }

// ErrFormat says that a format is none of Formats.
var ErrFormat = errors.New("must be table, json or yaml")

// Set takes a format by its name.
func (f *Format) Set(s string) error {
	switch v := Format(s); v {
	case Table, AsJSON, AsYAML:
		*f = v
		return nil
	default:
		return ErrFormat
	}
}

// String is the format's name.
func (f *Format) String() string { return string(*f) }

// Type says in a usage text what to write.
func (f *Format) Type() string { return "table|json|yaml" }

// Object writes v in a format for programs, and by people in the table format.
func (f *Format) Object(w io.Writer, v any, people func(io.Writer) error) error {
	switch *f {
	case AsJSON:
		return JSON(w, v, false)
	case AsYAML:
		return YAML(w, v)
	case Table:
		return people(w)
	default:
		return fmt.Errorf("output format %q: %w", *f, ErrFormat)
	}
}
