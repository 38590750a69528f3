package sim

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Worlds here live in virtual time, which stands still while a disk syncs, and what they show of disks they show over simulated ones. So
// their files lie in memory where there is plenty: half of the time that these tests took was spent in syncs.
const (
	memory     = "/dev/shm"
	memoryFree = 4 << 30 // bytes
)

func TestMain(m *testing.M) {
	dir := ""
	var fs unix.Statfs_t
	if os.Getenv("TMPDIR") == "" && unix.Statfs(memory, &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= memoryFree {
		if d, err := os.MkdirTemp(memory, "holdfast-sim-"); err == nil && os.Setenv("TMPDIR", d) == nil {
			dir = d
		}
	}
	code := m.Run()
	if dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
	}
	os.Exit(code)
}
