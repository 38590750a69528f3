package artifact

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-edge/holdfast/wire"
)

// ErrManifest is the sentinel of a manifest that breaks a rule.
var ErrManifest = errors.New("manifest")

// Bounds of a manifest.
const (
	MaxEntries = 1 << 16
	MaxSize    = 64 << 30 // bytes of all files
	MaxPatched = 24 << 20 // bytes of a patch's base and file together: both are in memory at once
	MaxPatches = 4096
	MaxChecks  = 16
	MaxArgs    = 32
	MaxSoak    = 24 * time.Hour

	maxName    = 64
	maxPath    = 1024
	maxElement = 255
	maxArg     = 1024
	maxList    = 32
	maxUnit    = 128
)

// What a check has when the manifest does not say.
const (
	DefaultStart   = time.Minute
	DefaultTimeout = 10 * time.Second
	DefaultEvery   = 5 * time.Second
)

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrManifest}, args...)...)
}

// CheckName holds an artifact's name against its rules: 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit.
func CheckName(s string) error {
	if !wordOf(s, false) {
		return bad("name %.80q: want 1 to %d of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", s, maxName)
	}
	return nil
}

// CheckVersion holds a version's text against its rules: as a name, with capitals and '+' too.
func CheckVersion(s string) error {
	if !wordOf(s, true) {
		return bad("version %.80q: want 1 to %d of A-Z, a-z, 0-9, '.', '_', '+' and '-', beginning with a letter or digit", s, maxName)
	}
	return nil
}

func wordOf(s string, version bool) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', version && c >= 'A' && c <= 'Z':
		case i > 0 && (c == '.' || c == '_' || c == '-' || version && c == '+'):
		default:
			return false
		}
	}
	return true
}

// Check holds the manifest against all rules. The error is ErrManifest and says what breaks which.
func (m *Manifest) Check() error {
	if m.Format != Format {
		return bad("format %d, known is %d: a newer build is needed", m.Format, Format)
	}
	if err := errors.Join(CheckName(m.Name), CheckVersion(m.Version)); err != nil {
		return err
	}
	switch {
	case m.Number == 0:
		return bad("no release number; it counts from 1")
	case m.Kind != KindTree && m.Kind != KindFile:
		return bad("kind %d is not known: a newer build is needed", m.Kind)
	case time.Duration(m.SoakMS)*time.Millisecond > MaxSoak || time.Duration(m.StartMS)*time.Millisecond > MaxSoak:
		return bad("soak of %d ms and start of %d ms, at most %v", m.SoakMS, m.StartMS, MaxSoak)
	case m.Unit != "" && !unitName(m.Unit):
		return bad("unit %.150q is no name of a systemd unit", m.Unit)
	}
	if err := errors.Join(m.Fits.check(), m.checkHealth()); err != nil {
		return err
	}
	if err := m.checkEntries(); err != nil {
		return err
	}
	return m.checkPatches()
}

func (c *Compatibility) check() error {
	for name, list := range map[string][]string{"arch": c.Arch, "soc": c.SoC, "accelerators": c.Accelerators, "os": c.OS} {
		if len(list) > maxList {
			return bad("fits: %d values of %s, at most %d", len(list), name, maxList)
		}
		for _, v := range list {
			if !text(v, maxUnit) || v == "" {
				return bad("fits: %s %.80q is empty, too long or no text", name, v)
			}
		}
	}
	return nil
}

func (m *Manifest) checkHealth() error {
	if len(m.Health) > MaxChecks {
		return bad("%d health checks, at most %d", len(m.Health), MaxChecks)
	}
	for i := range m.Health {
		if err := m.Health[i].check(); err != nil {
			return fmt.Errorf("health check %d: %w", i+1, err)
		}
	}
	return nil
}

func (c *Check) check() error {
	if len(c.Args) > MaxArgs {
		return bad("%d arguments, at most %d", len(c.Args), MaxArgs)
	}
	for _, a := range c.Args {
		if !text(a, maxArg) {
			return bad("argument %.80q is too long or no text", a)
		}
	}
	if c.Kind != CheckExec && len(c.Args) > 0 {
		return bad("only exec has arguments")
	}
	switch c.Kind {
	case CheckFile, CheckExec:
		return CheckPath(c.Path)
	case CheckHTTP:
		if !strings.HasPrefix(c.Path, "/") || !text(c.Path, maxPath) || c.Port == 0 {
			return bad("http wants a port and a path that begins with '/', got %d and %.80q", c.Port, c.Path)
		}
	case CheckTCP:
		if c.Port == 0 {
			return bad("tcp wants a port")
		}
	case CheckUnit:
		if !unitName(c.Unit) {
			return bad("unit %.150q is no name of a systemd unit", c.Unit)
		}
	default:
		return bad("kind %d is not known: a newer build is needed", c.Kind)
	}
	return nil
}

// unitName tells whether s may name a systemd unit: what unit names consist of, with a suffix.
func unitName(s string) bool {
	if len(s) > maxUnit || !strings.Contains(strings.Trim(s, "."), ".") {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(":_.\\@-", r)
	}) < 0
}

// text tells whether s is valid UTF-8 of at most n bytes without control characters.
func text(s string, n int) bool {
	return len(s) <= n && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}

// CheckPath holds a path in a release against its rules: relative, with slashes, and with no element that is empty, "." or "..". The
// error is ErrManifest.
func CheckPath(p string) error {
	if p == "" || !text(p, maxPath) || strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../") {
		return bad("path %.80q is not relative and clean, or leaves the release, or is longer than %d bytes", p, maxPath)
	}
	for e := range strings.SplitSeq(p, "/") {
		if len(e) > maxElement {
			return bad("path %.80q has an element of more than %d bytes", p, maxElement)
		}
	}
	return nil
}

func (m *Manifest) checkEntries() error {
	if len(m.Entries) > MaxEntries {
		return bad("%d entries, at most %d", len(m.Entries), MaxEntries)
	}
	if m.Kind == KindFile && (len(m.Entries) != 1 || m.Entries[0].Type != TypeFile || strings.Contains(m.Entries[0].Path, "/")) {
		return bad("an artifact of kind file is one file")
	}
	dirs := make(map[string]bool)
	var size uint64
	for i := range m.Entries {
		e := &m.Entries[i]
		if err := e.check(); err != nil {
			return err
		}
		if i > 0 && e.Path <= m.Entries[i-1].Path {
			return bad("entry %.80q is not in order, or there twice", e.Path)
		}
		if dir := path.Dir(e.Path); dir != "." && !dirs[dir] {
			return bad("entry %.80q: its directory is no entry before it", e.Path)
		}
		if e.Type == TypeDir {
			dirs[e.Path] = true
		}
		if size += e.Size; size > MaxSize {
			return bad("more than %d bytes of files", int64(MaxSize))
		}
	}
	return nil
}

func (e *Entry) check() error {
	if err := CheckPath(e.Path); err != nil {
		return err
	}
	if e.Mode&^0o777 != 0 {
		return bad("entry %.80q: mode %#o: only permission bits are installed, no setuid, setgid or sticky bit", e.Path, e.Mode)
	}
	if e.Type != TypeFile && (e.Size != 0 || len(e.Chunks) > 0 || !e.Digest.IsZero()) || e.Type != TypeSymlink && e.Target != "" {
		return bad("entry %.80q has what its type has not", e.Path)
	}
	switch e.Type {
	case TypeFile:
		if n, ok := e.Chunks.size(); !ok || n != e.Size {
			return bad("entry %.80q: chunks of %d bytes in all for a file of %d, each 1 to %d", e.Path, n, e.Size, wire.MaxChunk)
		}
	case TypeDir:
	case TypeSymlink:
		return e.checkTarget()
	default:
		return bad("entry %.80q is of type %d: only files, directories and symbolic links are installed", e.Path, e.Type)
	}
	return nil
}

// checkTarget sees to it that a symbolic link does not lead out of the release.
func (e *Entry) checkTarget() error {
	to := path.Join(path.Dir(e.Path), e.Target)
	switch {
	case e.Mode != 0:
		return bad("entry %.80q: a symbolic link has no mode", e.Path)
	case e.Target == "" || !text(e.Target, maxPath) || path.Clean(e.Target) != e.Target: // a ".." behind a name could be behind another link
		return bad("entry %.80q: its target %.80q is empty, too long, no text, or not clean", e.Path, e.Target)
	case strings.HasPrefix(e.Target, "/"), to == "..", strings.HasPrefix(to, "../"):
		return bad("entry %.80q: its target %.80q is out of the release", e.Path, e.Target)
	}
	return nil
}

func (m *Manifest) checkPatches() error {
	if len(m.Patches) > MaxPatches {
		return bad("%d patches, at most %d", len(m.Patches), MaxPatches)
	}
	if len(m.Patches) == 0 {
		return nil
	}
	files := make(map[wire.Digest]uint64)
	for i := range m.Entries {
		if m.Entries[i].Type == TypeFile {
			files[m.Entries[i].Digest] = m.Entries[i].Size
		}
	}
	for i := range m.Patches {
		p := &m.Patches[i]
		if i > 0 && comparePatches(&m.Patches[i-1], p) >= 0 {
			return bad("patch %d is not in order, or there twice", i+1)
		}
		size, there := files[p.File]
		switch n, ok := p.Chunks.size(); {
		case !there:
			return bad("patch %d makes a file that is not there", i+1)
		case !ok || n != p.Size || n == 0 || n > MaxPatched:
			return bad("patch %d: chunks of %d bytes in all for %d, at most %d", i+1, n, p.Size, MaxPatched)
		case p.BaseSize > MaxPatched || size > MaxPatched || p.BaseSize+size > MaxPatched:
			return bad("patch %d: base of %d bytes and file of %d, together at most %d", i+1, p.BaseSize, size, MaxPatched)
		}
	}
	return nil
}

func comparePatches(a, b *Patch) int {
	if c := a.Base.Compare(b.Base); c != 0 {
		return c
	}
	return a.File.Compare(b.File)
}
