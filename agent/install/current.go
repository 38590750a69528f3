package install

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
)

// Current is the release that current points to; zero: none. Whether it lies there as it was installed, Verify tells. A current that the
// agent did not make is an error.
func (s *Slot) Current() (wire.Digest, error) {
	d, err := s.current()
	return d, onDisk(err, "%s/%s", s.dir, currentLink)
}

func (s *Slot) current() (wire.Digest, error) {
	info, err := s.fs.Lstat(currentLink)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wire.Digest{}, nil
	case err != nil:
		return wire.Digest{}, err
	case info.Mode().Type() != fs.ModeSymlink:
		return wire.Digest{}, fmt.Errorf("%v where a symbolic link to a release belongs: %w; look at it and move it away", info.Mode(), errForeign)
	}
	target, err := s.fs.Readlink(currentLink)
	if err != nil {
		return wire.Digest{}, err
	}
	name, ok := strings.CutPrefix(target, releasesDir+"/")
	d, err := wire.ParseDigest(name)
	if !ok || err != nil || release(d) != target {
		return wire.Digest{}, fmt.Errorf("points to %.120q, which is no release: %w; look at it and remove it", target, errForeign)
	}
	return d, nil
}

// Switch makes an installed release the one that runs, in one step; zero: none runs. It may be repeated. What was started from the release
// before goes on until it is restarted.
func (s *Slot) Switch(d wire.Digest) error {
	if _, err := s.Current(); err != nil { // what is none of ours is not replaced
		return err
	}
	if d.IsZero() {
		return onDisk(s.unlink(), "remove %s/%s", s.dir, currentLink)
	}
	m, err := s.Manifest(d)
	if err != nil {
		return err
	}
	in, err := installerOf(m.Kind)
	if err != nil {
		return err
	}
	return onDisk(in.put(s, d), "switch %s to %s", s.dir, d.Short())
}

func (s *Slot) unlink() error {
	if err := s.fs.Remove(currentLink); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.fs.SyncDir(".")
}

// link points current to a release.
func (s *Slot) link(d wire.Digest) error {
	info, err := s.fs.Lstat(release(d))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory (%v): %w", release(d), info.Mode(), errForeign)
	}
	if now, err := s.current(); err == nil && now == d {
		return s.fs.SyncDir(".") // whoever made it may not have come so far
	}
	tmp := currentLink + tmpSuffix
	if err := removeAll(s.fs, tmp); err != nil {
		return err
	}
	if err := s.fs.Symlink(release(d), tmp); err != nil {
		return err
	}
	if err := s.fs.Rename(tmp, currentLink); err != nil {
		return err
	}
	return s.fs.SyncDir(".")
}
