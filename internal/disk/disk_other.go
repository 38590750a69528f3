//go:build !linux

package disk

import (
	"io"
	"os"
)

// Reserve and DropCache do nothing here: they make faults show earlier and are not needed for correctness. The directory is not locked.

func (f osFile) Reserve(int64) error { return nil }
func (f osFile) DropCache() error    { return nil }

func lockDir(dir string) (io.Closer, error) { return os.Open(dir) }
