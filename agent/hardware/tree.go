package hardware

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/holdfast-edge/holdfast/wire"
)

const (
	// maxFile bounds a file of several lines that is read whole, in bytes: sixteen pages, of which /proc/meminfo and
	// os-release need less than one.
	maxFile = 64 << 10
	// maxAttribute bounds a file of one value, in bytes: the page that sysfs has for an attribute.
	maxAttribute = 4 << 10
	// maxEntries bounds a directory: servers with virtual functions list some hundred PCI devices.
	maxEntries = 4096
)

var (
	// errNothing: the source exists and says nothing usable, such as an empty file or a maker's placeholder.
	errNothing = errors.New("says nothing")
	// errMalformed: the source exists and is not in the form that the kernel documents.
	errMalformed = errors.New("malformed")
	// errTooLarge: the source is beyond any size that the kernel gives it.
	errTooLarge = errors.New("too large")
)

// missing reports whether err means that the source is not there, as opposed to not readable. A device that goes away
// between the listing of its bus and the read of its attribute answers with ENODEV.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNothing) || errors.Is(err, syscall.ENODEV)
}

// tree reads the machine's files within bounds, with errors that name the path as it is on the machine.
type tree struct{ fs FS }

// read returns the whole file, which may have at most limit bytes.
func (t tree) read(path string, limit int64) ([]byte, error) {
	f, err := t.fs.Open(path)
	if err != nil {
		return nil, pathError(path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, pathError(path, err)
	}
	if int64(len(data)) > limit {
		return nil, pathError(path, errTooLarge)
	}
	return data, nil
}

// readFirst returns the first of the files that exists, within limit bytes.
func (t tree) readFirst(limit int64, paths ...string) (data []byte, err error) {
	for _, path := range paths {
		data, err = t.read(path, limit)
		if err == nil || !missing(err) {
			break
		}
	}
	return data, err
}

// text returns the file as one clean line, errNothing if that is empty.
func (t tree) text(paths ...string) (string, error) {
	data, err := t.readFirst(maxAttribute, paths...)
	if err != nil {
		return "", err
	}
	s := clean(string(data))
	if s == "" {
		return "", pathError(paths[0], errNothing)
	}
	return s, nil
}

// list returns the sorted names in a directory. With errTooLarge it returns those within bounds.
func (t tree) list(path string) ([]string, error) {
	names, err := t.fs.ReadDir(path, maxEntries+1)
	if err != nil {
		return nil, pathError(path, err)
	}
	slices.Sort(names)
	if len(names) > maxEntries {
		return names[:maxEntries], pathError(path, errTooLarge)
	}
	return names, nil
}

// sysfs tells whether sysfs is there to be looked at: every kernel that has it has /sys/bus.
func (t tree) sysfs() error {
	const path = "/sys/bus"
	if _, err := t.fs.ReadDir(path, 1); err != nil {
		return pathError(path, err)
	}
	return nil
}

// pathError puts the machine's path before err, in place of the path that the operating system was asked for, which
// differs by the root.
func pathError(path string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("read %s: %w", path, err)
}

// A probe asks one source.
type probe[T any] func() (T, error)

// ask returns the first answer. A missing source hands over to the next; any other failure ends the search. If all are
// missing the error is the first one's.
func ask[T any](probes []probe[T]) (T, error) {
	var first error
	for _, p := range probes {
		v, err := p()
		if err == nil || !missing(err) {
			return v, err
		}
		if first == nil {
			first = err
		}
	}
	var zero T
	return zero, first
}

// optional is a fact that a machine need not have. Absence is claimed only if looked is nil: otherwise it is the reason
// that the sources could not have been seen.
func optional[T any](looked error, probes ...probe[T]) wire.Fact[T] {
	v, err := ask(probes)
	switch {
	case err == nil:
		return wire.Known(v)
	case !missing(err):
		return unknown[T](err)
	case looked != nil:
		return unknown[T](looked)
	default:
		return wire.Absent[T]()
	}
}

// required is a fact that every machine has.
func required[T any](probes ...probe[T]) wire.Fact[T] {
	v, err := ask(probes)
	if err != nil {
		return unknown[T](err)
	}
	return wire.Known(v)
}

// unknown is a fact with err as its reason.
func unknown[T any](err error) wire.Fact[T] { return wire.Unknown[T](reason(err)) }

// reason is err's text, fit to be sent.
func reason(err error) string { return clip(clean(err.Error()), wire.MaxReason) }
