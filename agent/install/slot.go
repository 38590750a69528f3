package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// DefaultReserve is how much of the disk stays free, in bytes: room for the agent's own files, and for the logs of what runs.
const DefaultReserve = 64 << 20

// Options are what a device allows, and what tests replace. The zero value allows no unit.
type Options struct {
	Units    []string                         // systemd units that may be restarted
	Reserve  uint64                           // bytes of the disk that stay free; 0: DefaultReserve
	Bus      string                           // address of the D-Bus on which systemd is; "": the system's bus
	Activate time.Duration                    // how long a unit may take to restart; 0: DefaultActivate
	Log      *slog.Logger                     // nil: none
	Free     func(dir string) (uint64, error) // bytes that dir's file system has left; nil: the operating system's word
	Wrap     func(FS) FS                      // what comes between the slot and its disk; nil: nothing
}

func (o Options) withDefaults() Options {
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.Activate == 0 {
		o.Activate = DefaultActivate
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Free == nil {
		o.Free = free
	}
	return o
}

// layout is what this build reads and writes.
const layout = "1"

// Names in a slot's directory.
const (
	layoutFile  = "layout"
	currentLink = "current"
	releasesDir = "releases"
	stagingDir  = "staging"
	trashDir    = "trash"

	manifestSuffix = ".manifest"
)

// A Slot is the directory of one thing that is installed. It is used by one goroutine at a time.
type Slot struct {
	dir string
	fs  FS
	o   Options
}

// Open opens a slot's directory, and makes it when it is not there. The caller keeps other processes out. An unknown layout is ErrLayout,
// and nothing of it is touched.
func Open(dir string, o Options) (*Slot, error) {
	o = o.withDefaults()
	if err := own(dir); err != nil {
		return nil, onDisk(err, "slot %s", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, onDisk(err, "slot %s", dir)
	}
	s := &Slot{dir: dir, fs: rooted{root}, o: o}
	if o.Wrap != nil {
		s.fs = o.Wrap(s.fs)
	}
	if err := s.begin(); err != nil {
		return nil, errors.Join(onDisk(err, "slot %s", dir), s.fs.Close())
	}
	return s, nil
}

// own makes the directory, for this user alone.
func own(dir string) error {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("no directory (%v): %w; look at it and remove it", info.Mode(), errForeign)
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d, who could change what is installed: %w; chown it to the agent's user", st.Uid, errForeign)
	case info.Mode().Perm() != dirMode:
		return os.Chmod(dir, dirMode)
	}
	return nil
}

// begin looks at the layout and makes what is missing.
func (s *Slot) begin() error {
	b, err := readSmall(s.fs, layoutFile, 64)
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !fresh:
		return err
	case !fresh && strings.TrimSpace(string(b)) != layout:
		return fmt.Errorf("layout %.20q, this agent knows %q: %w; a newer agent made it: install that one again", b, layout, ErrLayout)
	}
	if fresh {
		if err := syncParent(s.dir); err != nil { // first, so that whoever finds a layout need not
			return err
		}
		if err := replace(s.fs, ".", layoutFile, []byte(layout+"\n")); err != nil {
			return err
		}
	}
	for _, d := range []string{releasesDir, stagingDir, trashDir} {
		if err := mkdir(s.fs, d); err != nil {
			return err
		}
	}
	if err := s.fs.SyncDir("."); err != nil {
		return err
	}
	return s.empty(trashDir)
}

// syncParent makes the slot's own name durable, and that of the directory that it is in.
func syncParent(dir string) error {
	for _, d := range []string{filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		f, err := os.Open(d) //nolint:gosec // G304: the agent's own directory
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// empty removes what is in a directory.
func (s *Slot) empty(dir string) error {
	list, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := removeAll(s.fs, dir+"/"+e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// Close lets go of the directory.
func (s *Slot) Close() error { return s.fs.Close() }

// Dir is where a release lies, as programs see it.
func (s *Slot) Dir(d wire.Digest) string { return filepath.Join(s.dir, release(d)) }

func release(d wire.Digest) string  { return releasesDir + "/" + d.String() }
func manifest(d wire.Digest) string { return release(d) + manifestSuffix }
func staging(d wire.Digest) string  { return stagingDir + "/" + d.String() }

// Manifest is the manifest of an installed release. The error has ReasonDrift when it is not there or not as it was.
func (s *Slot) Manifest(d wire.Digest) (*artifact.Manifest, error) {
	b, err := readSmall(s.fs, manifest(d), wire.MaxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fail(ReasonDrift, "release %s has no manifest", d.Short())
	case err != nil:
		return nil, onDisk(err, "manifest of release %s", d.Short())
	case wire.DigestOf(b) != d:
		return nil, fail(ReasonDrift, "manifest of release %s is not as it was", d.Short())
	}
	m, err := artifact.Decode(b)
	if err != nil {
		return nil, &Error{ReasonManifest, err}
	}
	return m, nil
}

// Prune removes all releases but those to keep and the one that runs, and what was staged of others than those.
func (s *Slot) Prune(keep ...wire.Digest) error {
	current, err := s.Current()
	if err != nil {
		return err
	}
	kept := map[string]bool{current.String(): true}
	for _, d := range keep {
		kept[d.String()] = true
	}
	return onDisk(s.prune(kept), "prune %s", s.dir)
}

func (s *Slot) prune(kept map[string]bool) error {
	for _, dir := range []string{releasesDir, stagingDir} {
		list, err := s.fs.ReadDir(dir)
		if err != nil {
			return err
		}
		slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }) // a release goes before its manifest
		for _, e := range list {
			if name, _ := strings.CutSuffix(e.Name(), manifestSuffix); kept[name] {
				continue
			}
			if err := s.discard(dir + "/" + e.Name()); err != nil {
				return err
			}
		}
		if err := s.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	return s.empty(trashDir)
}

// discard takes a name away at once; what had it is then removed piece by piece, so that no half of it keeps the name.
func (s *Slot) discard(name string) error {
	to := trashDir + "/" + filepath.Base(name)
	if err := removeAll(s.fs, to); err != nil {
		return err
	}
	info, err := s.fs.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir() && info.Mode().Perm()&dirMode != dirMode: // a directory that is moved elsewhere must be one that can be written
		if err := s.fs.Chmod(name, dirMode); err != nil {
			return err
		}
	}
	if err := s.fs.Rename(name, to); err != nil {
		return err
	}
	return removeAll(s.fs, to)
}

// A Fetcher brings chunks that the device does not have.
type Fetcher interface {
	// Fetch brings the chunks in their order, each verified, and calls deliver with each before the next one. data is deliver's only while
	// it runs. What deliver returns ends Fetch, which returns it.
	Fetch(ctx context.Context, chunks []artifact.Chunk, deliver func(i int, data []byte) error) error
}
