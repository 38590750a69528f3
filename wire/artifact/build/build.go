package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// ErrRefused is the sentinel of what can only be built when somebody changes the source, its description or the options.
var ErrRefused = errors.New("refused")

// A refusal is ErrRefused without saying so: its text is the reason alone.
type refusal struct{ error }

func (refusal) Is(target error) bool { return target == ErrRefused }
func (r refusal) Unwrap() error      { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// Options say what to build.
type Options struct {
	Source string // a directory or a file
	Spec   *Spec
	Out    string // directory that is made; nothing may be there
	// From are earlier builds of the artifact, from which files may be patched.
	From []*Dir
	// Progress, if set, is told how many bytes of the files are read, of how many.
	Progress func(done, total uint64)
}

// Result is what was built.
type Result struct {
	*Dir

	ChunkCount int    // different ones, those of patches included
	Stored     uint64 // bytes of their stored forms
	PatchBytes uint64 // of the patches
}

// Build builds an artifact. It writes beside o.Out and renames at the end, so that there is a whole artifact or none; what an interrupted
// build leaves beside it begins with a dot. Memory is bounded, whatever the source: files stream, but for those that are patched.
func Build(ctx context.Context, o Options) (_ *Result, err error) {
	switch _, err := os.Lstat(o.Out); {
	case err == nil:
		return nil, refuse("%s is there already: remove it, or name another directory", o.Out)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	t, err := openTree(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.root.Close()) }()
	if t.kind == artifact.KindTree {
		if err := apart(o.Source, o.Out); err != nil {
			return nil, err
		}
	}
	m, err := o.Spec.manifest(t.kind)
	if err != nil {
		return nil, err
	}
	m.Entries = t.entries
	// What breaks a rule is refused before hours are spent on content.
	if err := m.Check(); err != nil {
		return nil, refusal{err}
	}
	if err := follows(m, o.From); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(o.Out), "."+filepath.Base(o.Out)+".build-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	s, err := newStore(filepath.Join(tmp, chunksDir))
	if err != nil {
		return nil, err
	}
	if err := contents(ctx, t, m, s, o.Progress); err != nil {
		return nil, err
	}
	if err := patches(ctx, m, o.From, s); err != nil {
		return nil, err
	}
	return finish(tmp, o.Out, m, s)
}

// apart sees to it that the build does not read what it writes.
func apart(source, out string) error {
	in, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	beside, err := filepath.EvalSymlinks(filepath.Dir(out))
	if err != nil {
		return err
	}
	if in, err = filepath.Abs(in); err != nil {
		return err
	}
	if beside, err = filepath.Abs(beside); err != nil {
		return err
	}
	if rel, err := filepath.Rel(in, beside); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return refuse("%s lies in %s, which is built from: name a directory out of it", out, source)
	}
	return nil
}

// follows holds a manifest against earlier builds: a release follows them, under the same name.
func follows(m *artifact.Manifest, from []*Dir) error {
	for _, f := range from {
		switch b := f.Manifest; {
		case b.Name != m.Name:
			return refuse("%s is a build of %s, not of %s", f.Path, b.Name, m.Name)
		case b.Kind != m.Kind:
			return refuse("%s is of kind %v, not %v", f.Path, b.Kind, m.Kind)
		case b.Number >= m.Number:
			return refuse("%s is release %d of %s, and this is %d: raise release", f.Path, b.Number, b.Name, m.Number)
		}
	}
	return nil
}

// contents reads all files.
func contents(ctx context.Context, t *tree, m *artifact.Manifest, s *store, progress func(done, total uint64)) error {
	c, err := NewCutter()
	if err != nil {
		return err
	}
	var done uint64
	put := func(x artifact.Chunk, plain []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		done += uint64(x.Size)
		if progress != nil {
			progress(done, t.size)
		}
		return s.put(x, plain)
	}
	for i := range m.Entries {
		if m.Entries[i].Type == artifact.TypeFile {
			if err := t.cut(c, &m.Entries[i], put); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish writes the manifest and puts the build where it belongs.
func finish(tmp, out string, m *artifact.Manifest, s *store) (*Result, error) {
	b, digest, err := m.Encode()
	if err != nil {
		return nil, refusal{err}
	}
	if err := os.WriteFile(filepath.Join(tmp, manifestFile), b, 0o644); err != nil { //nolint:gosec // G306: as the chunks
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // G302: MkdirTemp's is for its owner alone
		return nil, err
	}
	if err := os.Rename(tmp, out); err != nil {
		return nil, err
	}
	r := &Result{Dir: &Dir{Path: out, Manifest: m, Bytes: b, Digest: digest}, ChunkCount: len(s.sizes), Stored: s.bytes}
	for i := range m.Patches {
		r.PatchBytes += m.Patches[i].Size
	}
	return r, nil
}
