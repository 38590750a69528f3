package hardware

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// FS is what detection needs of a file system. Names are absolute, slash-separated paths as seen on the machine under
// detection, for example "/proc/meminfo", whatever directory the implementation keeps them in. Errors must satisfy
// errors.Is with fs.ErrNotExist where the name does not exist, and keep the errno of the system call elsewhere.
type FS interface {
	// Open opens a file for reading. The caller closes it, and reads only as much as it has use for.
	Open(name string) (io.ReadCloser, error)
	// ReadDir returns the names in a directory, in any order, and stops after limit of them (limit is at least 1).
	ReadDir(name string, limit int) ([]string, error)
}

// A Source is where a profile is detected from. The zero Source is the running machine without what [Host] adds.
type Source struct {
	// Root is the directory that holds the machine's /proc, /sys, /etc and /usr; empty means "/". A symbolic link in
	// it that is absolute leads out of Root, as for any program that was not started in a chroot.
	Root string
	// FS replaces the files below Root; nil means [Dir](Root).
	FS FS
	// Machine is the kernel's name for the hardware as uname -m prints it, such as "aarch64"; empty if not known. It is
	// used where the kernel is too old to have /proc/sys/kernel/arch (before 6.1).
	Machine string
	// GOARCH is the architecture that the agent was built for, the last resort; empty if the tree is another machine's.
	GOARCH string
}

// Host is the machine that this program runs on.
func Host() Source { return Source{Root: "/", Machine: unameMachine(), GOARCH: runtime.GOARCH} }

// Dir is the file system below the directory root, "/" if root is empty.
func Dir(root string) FS {
	if root == "" {
		root = "/"
	}
	return dirFS(root)
}

type dirFS string

func (d dirFS) path(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

func (d dirFS) Open(name string) (io.ReadCloser, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d dirFS) ReadDir(name string, limit int) (names []string, err error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	names, err = f.Readdirnames(limit)
	if errors.Is(err, io.EOF) { // how an empty directory is reported
		err = nil
	}
	return names, err
}
